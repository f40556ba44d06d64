package daemon

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The test binary is also the program under test: TEST_PROGRAM names what it does.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_PROGRAM") != "" {
		live(program, 3*time.Second)
	}
	os.Exit(m.Run())
}

func program(ctx context.Context, args []string, env map[string]string, stdout io.Writer) error {
	switch env["TEST_PROGRAM"] {
	case "fails":
		return errors.New("no such car")
	case "refuses":
		return fmt.Errorf("%w: what is %q?", ErrUsage, args[0])
	case "refuses quietly":
		return Usagef("what is %q?", args[0])
	case "fails in its own way":
		return fmt.Errorf("order: %w", ExitWith(3, errors.New("no such car")))
	case "helps":
		return flag.ErrHelp
	case "hangs":
		fmt.Fprintln(stdout, "running")
		select {}
	case "passes on the cancellation":
		fmt.Fprintln(stdout, "running")
		<-ctx.Done()
		return fmt.Errorf("poll: %w", ctx.Err())
	case "asks a source that states too short a length":
		return ask(ctx)
	case "waits":
		fmt.Fprintln(stdout, "running")
		<-ctx.Done()
		for range 3 { // the reader may be gone
			fmt.Fprintln(stdout, "stopped")
		}
		if f := env["TEST_FILE"]; f != "" {
			return os.WriteFile(f, []byte("stopped"), 0o600)
		}
		return nil
	case "logs more than a pipe holds":
		logger := Logger(stdout, slog.LevelInfo)
		for i := range 2000 {
			logger.Info("a line", "line", i, "text", strings.Repeat("x", 100))
		}
		fmt.Fprintln(os.Stderr, "logged")
		<-ctx.Done()
		logger.Info("stopping")
		return errors.New("a last word")
	case "starts one that waits":
		cmd := self("waits", StopWithParent+"="+fmt.Sprint(os.Getpid()), "TEST_FILE="+env["TEST_FILE"])
		cmd.Stdout = os.Stdout
		return cmd.Run()
	}
	return errors.New("TEST_PROGRAM")
}

// ask returns when the client has closed the connection.
func ask(ctx context.Context) error {
	source, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	answered := make(chan error, 1)
	go func() {
		conn, err := source.Accept()
		if err == nil {
			_, err = http.ReadRequest(bufio.NewReader(conn))
		}
		if err == nil {
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}{\"name\": \"Ada\"}")
		}
		if err == nil {
			_, err = io.Copy(io.Discard, conn)
		}
		answered <- err
	}()
	resp, err := http.Get("http://" + source.Addr().String())
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close(), <-answered)
}

func self(program string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "argument")
	cmd.Env = append(append(os.Environ(), "TEST_PROGRAM="+program), env...)
	return cmd
}

// What a source sends is not logged by the standard library either.
func TestNoLogOfTheLibrary(t *testing.T) {
	t.Parallel()
	if text, err := self("asks a source that states too short a length").CombinedOutput(); err != nil || len(text) > 0 {
		t.Errorf("%v %s", err, text)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		program string
		env     string
		code    int
		stderr  string
	}{
		{"fails", "", 1, ": no such car\n"},
		{"refuses", "", 2, `: usage: what is "argument"?` + "\n"},
		{"refuses quietly", "", 2, `: what is "argument"?` + "\n"},
		{"fails in its own way", "", 3, ": order: no such car\n"},
		{"helps", "", 0, ""},
		{"waits", StopWithParent + "=up", 2, `EDISON_STOP_WITH_PARENT="up": takes the process id of the parent, or 1` + "\n"},
	} {
		t.Run(c.program, func(t *testing.T) {
			cmd := self(c.program, c.env)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			_ = cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.HasSuffix(stderr.String(), c.stderr) {
				t.Errorf("exit code %d, stderr %q; want %d, %q", code, stderr.String(), c.code, c.stderr)
			}
		})
	}
}

// start returns once the program says that it is running.
func start(t *testing.T, cmd *exec.Cmd) (stdout *bufio.Reader, stderr *strings.Builder) {
	t.Helper()
	stderr = &strings.Builder{}
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	stdout = bufio.NewReader(out)
	if line, err := stdout.ReadString('\n'); line != "running\n" {
		t.Fatalf("%q, %v: %s", line, err, stderr)
	}
	return stdout, stderr
}

func TestStop(t *testing.T) {
	t.Parallel()
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP) // else what is started here ignores it, where these tests run under nohup
	t.Cleanup(func() { signal.Stop(heard) })
	for _, c := range []struct {
		name, program string
		signals       []syscall.Signal
		code          int
		stderr        string
	}{
		{"SIGTERM", "waits", []syscall.Signal{syscall.SIGTERM}, 0, ""},
		{"SIGINT", "waits", []syscall.Signal{syscall.SIGINT}, 0, ""},
		{"SIGHUP", "waits", []syscall.Signal{syscall.SIGHUP}, 0, ""},
		{"the cancellation is no error", "passes on the cancellation", []syscall.Signal{syscall.SIGTERM}, 0, ""},
		{"a second signal ends it at once", "hangs", []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}, 1, "second signal"},
		{"a signal to the process and to its group is one", "hangs", []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, 1, "not stopped within 3s"},
		{"one that hangs is ended", "hangs", []syscall.Signal{syscall.SIGTERM}, 1, "not stopped within 3s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && strings.HasPrefix(c.stderr, "not stopped within") {
				t.Skip("-short: it needs the end of a timeout")
			}
			cmd := self(c.program)
			_, stderr := start(t, cmd)
			for _, s := range c.signals {
				if err := cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit code %d, stderr %q; want %d, %q", code, stderr, c.code, c.stderr)
			}
		})
	}
}

// A log that nobody reads holds up neither the work nor the stop.
func TestLogThatNobodyReads(t *testing.T) {
	t.Parallel()
	unread := func(t *testing.T) (w, r *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return w, r
	}
	run := func(t *testing.T, stdout, stderr *os.File, logged io.Reader) *exec.Cmd {
		cmd := self("logs more than a pipe holds")
		cmd.Stdout, cmd.Stderr = stdout, stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stderr.Close() // ours
		hanging := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		t.Cleanup(func() { hanging.Stop(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if logged == nil {
			time.Sleep(3 * time.Second) // nothing tells that it waits
		} else if line, err := bufio.NewReader(logged).ReadString('\n'); err != nil || line != "logged\n" {
			t.Errorf("%q, %v", line, err)
		}
		return cmd
	}
	stop := func(t *testing.T, cmd *exec.Cmd) {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
			t.Error(cmd.ProcessState)
		}
	}
	t.Run("neither stdout nor stderr", func(t *testing.T) {
		t.Parallel()
		if testing.Short() {
			t.Skip("-short: it needs seconds")
		}
		stdout, _ := unread(t)
		stop(t, run(t, stdout, stdout, nil))
	})
	t.Run("its reader is gone", func(t *testing.T) {
		t.Parallel()
		stdout, r := unread(t)
		r.Close()
		stderr, logged := unread(t)
		stop(t, run(t, stdout, stderr, logged))
	})
	t.Run("the reader of stdout and stderr is gone", func(t *testing.T) {
		t.Parallel()
		stdout, r := unread(t)
		r.Close()
		stop(t, run(t, stdout, stdout, nil))
	})
	t.Run("read again", func(t *testing.T) {
		t.Parallel()
		stdout, r := unread(t)
		stderr, logged := unread(t)
		cmd := run(t, stdout, stderr, logged)
		stdout.Close()
		text := make(chan string)
		go func() {
			b, _ := io.ReadAll(r)
			text <- string(b)
		}()
		time.Sleep(500 * time.Millisecond) // until the line that waited is taken
		stop(t, cmd)
		all := <-text
		before, after, missing := strings.Cut(all, `level=WARN msg="lines of the log are missing here: nobody read it" lines=`)
		var n int
		if _, err := fmt.Sscan(after, &n); err != nil || !missing || n+strings.Count(before, "\n") != 2000 || !strings.Contains(after, "stopping") {
			t.Errorf("%v, %d of 2000 lines are there, then: %.300s", err, strings.Count(before, "\n"), after)
		}
	})
}

// Lines that are read slowly take a second at most, and a tenth of the time after that.
func TestLogThatIsReadSlowly(t *testing.T) {
	t.Parallel()
	Logger(io.Discard, slog.LevelInfo) // the first one starts what receives signals, which never ends: not in the bubble
	synctest.Test(t, func(t *testing.T) {
		logger := Logger(slowWriter{}, slog.LevelInfo)
		began := time.Now()
		for range 1000 {
			logger.Info("a line")
			time.Sleep(10 * time.Millisecond) // the work
		}
		if took := time.Since(began); took > 12500*time.Millisecond {
			t.Errorf("work of 10 s took %v", took)
		}
		time.Sleep(time.Minute) // until the last line is taken
	})
}

// A clock that was in the far future for a while, where times are by the calendar alone, loses no line.
func TestLogAfterAClockWasSetBack(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	p := &patientWriter{w: &b, last: time.Date(2160, 1, 1, 0, 0, 0, 0, time.UTC)}
	for range 1000 {
		if _, err := p.Write([]byte("a line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if b.String() != strings.Repeat("a line\n", 1000) {
		t.Errorf("%.300s", b.String())
	}
}

// A slowWriter takes 900 ms for each line.
type slowWriter struct{}

func (slowWriter) Write(b []byte) (int, error) {
	time.Sleep(900 * time.Millisecond)
	return len(b), nil
}

func TestStopWithParent(t *testing.T) {
	t.Parallel()
	t.Run("the parent is killed", func(t *testing.T) {
		t.Parallel()
		cmd := self("starts one that waits")
		stdout, _ := start(t, cmd)
		kill(t, cmd)
		stopped(t, stdout)
	})
	t.Run("the parent is killed and nobody reads what it wrote", func(t *testing.T) {
		t.Parallel()
		file := t.TempDir() + "/end"
		cmd := self("starts one that waits", "TEST_FILE="+file)
		start(t, cmd)
		kill(t, cmd)
		_ = cmd.Wait() // closes our end of the pipe
		for deadline := time.Now().Add(time.Minute); ; {
			if b, _ := os.ReadFile(file); string(b) == "stopped" {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("no orderly end")
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	t.Run("the parent was gone before the first look", func(t *testing.T) {
		t.Parallel()
		short := exec.Command("true")
		if err := short.Run(); err != nil {
			t.Fatal(err)
		}
		stdout, _ := start(t, self("waits", fmt.Sprint(StopWithParent, "=", short.Process.Pid)))
		stopped(t, stdout)
	})
	t.Run("1 is the parent at the start", func(t *testing.T) {
		t.Parallel()
		cmd := self("waits", StopWithParent+"=1")
		_, stderr := start(t, cmd)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			t.Errorf("%v: %s", err, stderr)
		}
	})
	t.Run("go run is killed", func(t *testing.T) {
		t.Parallel()
		for range 2 { // the second time the executable comes from the build cache
			cmd := exec.Command("go", "run", "./testdata/child")
			stdout, _ := start(t, cmd)
			kill(t, cmd)
			stopped(t, stdout)
		}
	})
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// stopped waits for the orderly end of the program at the other end of the pipe.
func stopped(t *testing.T, stdout io.Reader) {
	t.Helper()
	end := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(stdout)
		end <- string(b)
	}()
	select {
	case s := <-end:
		if !strings.HasPrefix(s, "stopped\n") {
			t.Errorf("ended with %q", s)
		}
	case <-time.After(time.Minute):
		t.Error("still running a minute after its parent was killed")
	}
}
