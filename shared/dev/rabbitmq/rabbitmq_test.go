package rabbitmq

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/dev/freeport"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

func needed(t *testing.T) {
	t.Helper()
	pgtest.Slow(t, "RabbitMQ")
	if _, err := Find(); err != nil {
		t.Skip(err)
	}
}

// Confirmed messages survive a stop and a kill, and only one of two processes can have the folder.
func TestRestart(t *testing.T) {
	t.Parallel()
	needed(t)
	dir := t.TempDir()
	for i, end := range []func(*Server){(*Server).Stop, (*Server).Kill, (*Server).Stop} {
		s, err := Start(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Kill)
		if _, err := Start(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "is in use by process") {
			t.Errorf("a second one: %v", err)
		}
		conn, err := amqp.Dial(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		ch, err := conn.Channel()
		if err == nil {
			err = ch.Confirm(false)
		}
		if err != nil {
			t.Fatal(err)
		}
		q, err := ch.QueueDeclare("kept", true, false, false, false, nil)
		if err != nil || q.Messages != i {
			t.Fatalf("%d messages after %d starts: %v", q.Messages, i, err)
		}
		confirmed, err := ch.PublishWithDeferredConfirm("", "kept", false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte("x")})
		if err != nil || !confirmed.Wait() {
			t.Fatal("not confirmed: ", err)
		}
		conn.Close()
		end(s)
		eventually(t, "nothing is left", func() bool { return len(processes(t, dir)) == 0 })
	}
}

// A process that is killed takes its server along.
func TestKilled(t *testing.T) {
	t.Parallel()
	needed(t)
	dir := t.TempDir()
	binary := filepath.Join(t.TempDir(), "rabbitmq")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/rabbitmq").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, until := range []string{"beam", "listening"} { // while it starts, and when it runs
		log := filepath.Join(t.TempDir(), "log")
		out, err := os.Create(log)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), "ADDR="+mustFree(t), "DATA_DIR="+dir)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Close()
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		eventually(t, "it says or is "+until, func() bool {
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(text)+strings.Join(processes(t, dir), "\n"), until)
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		eventually(t, "nothing is left", func() bool { return len(processes(t, dir)) == 0 })
	}
}

func mustFree(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Addr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Start(t.Context(), Config{Dir: t.TempDir()}); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install rabbitmq-server") {
		t.Error(err)
	}
}

func TestOnLoopbackAlone(t *testing.T) {
	t.Parallel()
	needed(t)
	if _, err := Start(t.Context(), Config{Dir: t.TempDir(), Addr: "0.0.0.0:5672"}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:port alone") {
		t.Error(err)
	}
}

// processes are those that have the folder on their command line or, on Linux, in their environment.
func processes(t *testing.T, dir string) (found []string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		out, err := exec.Command("ps", "-axo", "pid=,command=").Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, dir) {
				found = append(found, line)
			}
		}
		return found
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range all {
		env, _ := os.ReadFile(proc + "/environ")
		line, _ := os.ReadFile(proc + "/cmdline")
		if len(line) > 0 && strings.Contains(string(env), "HOME="+dir) {
			found = append(found, filepath.Base(proc)+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	const patience = startTimeout + time.Minute // a start may use all of its time
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
