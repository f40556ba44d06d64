package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// built is the folder of the binary, which is built once for all tests.
var built struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := os.RemoveAll(built.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func build(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "edison-built-"); built.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", built.dir, ".").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "bench")
}

func TestQuick(t *testing.T) {
	t.Parallel()
	picture := filepath.Join(t.TempDir(), "bench.svg")
	raw, err := exec.Command(build(t), "feed", "--quick", "--out", picture).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	out := string(raw)
	want := []string{`cores, .*PostgreSQL \d+.*fsync on, synchronous_commit on`}
	for _, writers := range writerCounts {
		want = append(want, fmt.Sprintf(`(?m)^ +%d  +[\d,.]+  +[\d,.]+  +[\d,.]+  .*\)  +0 of [\d,]*[1-9][\d,]*  +[\d,]+ of [\d,]+  +[\d,]+ of [\d,]+$`, writers))
	}
	for _, name := range []string{"tail", "sealed", "sealed gzip"} {
		want = append(want, `(?m)^ *`+name+`  +structs  +[\d,.]+`)
	}
	pages := []string{"304", "tail", "sealed", "sealed gzip", "Atom"}
	for _, name := range pages {
		want = append(want, `(?m)^ *`+name+`  +feed  +[\d,.]+  +-?[\d,.]+  +[\d,.]+  `)
	}
	for _, name := range []string{"wait", "wait, replica", "poll every 1 s"} {
		want = append(want, `(?m)^ *`+name+`  +40  +[\d,.]+  +[\d,.]+  +[\d,.]+$`)
	}
	for _, name := range []string{"alone", "with cold walkers"} {
		want = append(want, `(?m)^ *`+name+`  +[\d,.]+  +[\d,.]+  +[\d,.]+ \([\d,.-]+\)  +[\d,.]+$`)
	}
	want = append(want, `(?m)^ *200  +(-?[\d.]+|-)  +-  +[\d.]+ \(`)
	for _, w := range want {
		if !regexp.MustCompile(w).MatchString(out) {
			t.Errorf("nothing matches %s", w)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	t.Run("against nginx", func(t *testing.T) {
		if strings.Contains(out, "nginx is left out") {
			t.Skip("nginx is not installed")
		}
		for _, name := range pages {
			if !regexp.MustCompile(`(?m)^ *` + name + `  +nginx  +[\d,.]+  +-?[\d,.]+`).MatchString(out) {
				t.Errorf("no figures of %s in\n%s", name, out)
			}
		}
	})
	if bars := countBars(t, picture); bars < 4*3+5+3*2 {
		t.Errorf("the picture has %d bars", bars)
	}
}

func TestQuickSubscribe(t *testing.T) {
	t.Parallel()
	picture := filepath.Join(t.TempDir(), "bench.svg")
	raw, err := exec.Command(build(t), "subscribe", "--quick", "--out", picture).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	out := string(raw)
	figures := func(t *testing.T, rows ...string) {
		t.Helper()
		for _, row := range rows {
			if !regexp.MustCompile(`(?m)^ *` + row + `$`).MatchString(out) {
				t.Errorf("nothing matches %s", row)
			}
		}
		if t.Failed() {
			t.Log(out)
		}
	}
	const number, ratio = `  +[\d,.]*[1-9][\d,.]*`, `  +([\d.,]+ \([\d.,-]+\)|-)`
	figures(t,
		`\d+ cores, .*PostgreSQL \d+.*fsync on, synchronous_commit on.*`,
		`source`+number+`  +[\d,.]+`, `subscriber`+number+number, // one poll may cost less than what goes on anyway
		`feed, pure copy, wait`+number+number+number+number+ratio+ratio,
		`feed, poll every 1 s`+number+number+number+number+ratio+ratio,
		`logical replication`+number+number+number+number+ratio+ratio,
		`psql \\copy  +5,000`+number+`  +1.00 \(1.00-1.00\)`+ratio+`  +-`,
		`logical replication, initial sync  +5,000`+number+ratio+ratio+`  +-`,
		`feed, pure copy, from a source just started  +5,000`+number+ratio+ratio+number,
		`feed, one applier, .*  +5,000`+number+ratio+ratio+number,
	)
	t.Run("against RabbitMQ", func(t *testing.T) {
		if strings.Contains(out, "RabbitMQ is left out") {
			t.Skip("RabbitMQ is not installed")
		}
		figures(t, `RabbitMQ push`+number+number+number+number+ratio+ratio,
			`RabbitMQ, tuned batches  +5,000`+number+ratio+ratio+`  +-`, `RabbitMQ, one by one  +100`+number+ratio+ratio+`  +-`)
	})
	t.Run("behind nginx", func(t *testing.T) {
		if strings.Contains(out, "nginx is not installed") {
			t.Skip("nginx is not installed")
		}
		figures(t, `feed, pure copy, from nginx, which has it  +5,000`+number+ratio+ratio+number)
	})
	if bars := countBars(t, picture); bars < 3+2*3+5 {
		t.Errorf("the picture has %d bars", bars)
	}
}

func countBars(t *testing.T, picture string) (bars int) {
	t.Helper()
	svg, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return bars
		} else if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
}

// Whatever is stopped in the middle leaves no process, and no data unless it is killed.
func TestStopped(t *testing.T) {
	t.Parallel()
	binary := build(t)
	for _, test := range []struct {
		what, part, until string // it has said so, or such a process runs
		signal            syscall.Signal
	}{
		{"feed", "writes", "Writes:", syscall.SIGINT},
		{"feed", "reads", serveArg + " " + feedKind, syscall.SIGINT},
		{"feed", "reads", serveArg + " " + feedKind, syscall.SIGKILL},
		{"feed", "wait", serveArg + " " + salesKind, syscall.SIGINT},
		{"subscribe", "freshness", serveArg + " " + oneKind, syscall.SIGINT},
		{"subscribe", "freshness", serveArg + " " + rabbitKind, syscall.SIGINT},
		{"subscribe", "freshness", "beam", syscall.SIGKILL},
		{"architectures", "feed", serveArg + " " + shop.FeedConsumer, syscall.SIGINT},
		{"architectures", "relay", serveArg + " " + shop.FeedConsumer, syscall.SIGINT},
		{"architectures", "queues", serveArg + " " + shop.QueueConsumer, syscall.SIGKILL},
	} {
		t.Run(test.part+" by "+test.signal.String(), func(t *testing.T) {
			if needsRabbit := test.until != serveArg+" "+oneKind && test.what != "feed" && test.part != "feed"; needsRabbit && findRabbit() == nil {
				t.Skip("RabbitMQ is not installed")
			}
			t.Parallel()
			dir := pgtest.Dir(t)
			cmd := exec.Command(binary, test.what, "--only", test.part)
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			output, err := os.Create(filepath.Join(t.TempDir(), "output"))
			if err != nil {
				t.Fatal(err)
			}
			defer output.Close()
			cmd.Stdout, cmd.Stderr = output, output
			said := func() string {
				text, err := os.ReadFile(output.Name())
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill() })
			eventually(t, func() error {
				if seen := said() + strings.Join(processes(t, dir), "\n"); !strings.Contains(seen, test.until) {
					return fmt.Errorf("there is no %q in\n%s", test.until, seen)
				}
				return nil
			})
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil && test.signal != syscall.SIGKILL {
				t.Errorf("%v\n%s", err, said())
			}
			eventually(t, func() error {
				if left := processes(t, dir); len(left) > 0 {
					return fmt.Errorf("still running: %v", left)
				}
				return nil
			})
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 && test.signal != syscall.SIGKILL {
				t.Errorf("left in the folder: %v, %v", left, err)
			}
		})
	}
}

// processes are the command lines that name the folder, be it in a URL.
func processes(t *testing.T, dir string) (found []string) {
	t.Helper()
	out, err := exec.Command("ps", "-axww", "-o", "command=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, filepath.Base(dir)) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func eventually(t *testing.T, condition func() error) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) { // a broker may be slow to start; each look runs ps
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	o, err := parseFlags(strings.Fields("feed --only reads --quick --markdown --out x.svg"))
	if want := (options{what: "feed", only: "reads", quick: true, markdown: true, out: "x.svg"}); err != nil || o != want {
		t.Errorf("%+v, %v", o, err)
	}
	for args, text := range map[string]string{
		"":                          "takes feed, subscribe or architectures",
		"orders":                    "takes feed, subscribe or architectures",
		"feed more":                 "takes feed, subscribe or architectures",
		"feed --only catchup":       "writes, reads, wait, overload",
		"feed --entries 5000":       "-entries",
		"feed --out x.png":          "file.svg",
		"feed --out nowhere/x.svg":  "exists",
		"feed --loud":               "-loud",
		"subscribe --only writes":   "idle, freshness, catchup",
		"subscribe --entries 999":   "from 1,000 to",
		"subscribe --entries 1e6":   "from 1,000 to",
		"architectures --only wait": "calls, queues, stream, feed, relay",
		"architectures --orders 19": "from 20 to",
		"feed --orders 100":         "-orders",
		"subscribe freshness":       "takes feed, subscribe or architectures",
	} {
		if _, err := parseFlags(strings.Fields(args)); !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	values := make([]float64, 200)
	for i := range values {
		values[len(values)-1-i] = float64(i + 1)
	}
	for q, want := range map[float64]float64{0.001: 1, 0.5: 100, 0.99: 198, 1: 200} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got, want := ratios([]float64{2, 9, 8}, []float64{2, 3, 2}), "3.00 (1.00-4.00)"; got != want {
		t.Errorf("ratios gives %s, want %s", got, want)
	}
	for markdown, want := range map[bool]string{
		false: "  case  requests/s\n   304      12,345\n",
		true:  "\n| case | requests/s |\n| --: | --: |\n| 304 | 12,345 |\n",
	} {
		var b strings.Builder
		table := (&output{&b, markdown}).table("case", "requests/s")
		table.row("304", number(12345.4))
		if err := table.flush(); err != nil || b.String() != want {
			t.Errorf("Markdown %t: %v\n%s", markdown, err, b.String())
		}
	}
}
