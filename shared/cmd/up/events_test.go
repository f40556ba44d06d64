package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestEvents(t *testing.T) {
	t.Parallel()
	const (
		at      = "time=2026-11-29T12:00:00.000Z level="
		failed  = at + `WARN msg="poll failed" feed=orders error="ask http://localhost:8080/feeds/orders: connection refused" next_poll_in=1.5s`
		succeed = at + `INFO msg="polls succeed again" feed=orders failures=4`
		warned  = at + `WARN msg="entry rejected" feed=orders position=7 error="no \"id\""`
	)
	for name, x := range map[string]struct {
		log  []string // "" is a wait of a minute
		says []string
	}{
		"polls that copy nothing special": {log: []string{
			at + "INFO msg=listening url=http://127.0.0.1:8090", at + `DEBUG msg="poll failed again" feed=orders`, at + "INFO msg=copied feed=orders entries=1 cursor=7-0123456789ab behind=0",
		}},
		"a failure that is over soon": {log: []string{failed, succeed, ""}},
		"a failure that lasts": {
			log:  []string{failed, "", failed, "", succeed},
			says: []string{"orders: poll failed: ask http://localhost:8080/feeds/orders: connection refused", "orders: polls succeed again (failures=4)"},
		},
		"a long way to catch up": {
			log:  []string{at + "INFO msg=copied feed=orders entries=1000 behind=3000", at + "INFO msg=copied feed=orders entries=2000 behind=2000", at + "INFO msg=copied feed=orders entries=4000 behind=0"},
			says: []string{"orders: catching up, 3000 entries behind", "orders: caught up, 4000 entries copied"},
		},
		"a warning that repeats": {
			log:  []string{warned, warned, "", warned},
			says: []string{`orders: entry rejected: no "id" (position=7)`, `orders: entry rejected: no "id" (position=7)`},
		},
		"a database that was restarted": {
			log:  []string{at + `ERROR msg="private PostgreSQL ended, restarting it" folder=/d error="signal: killed"`, at + `INFO msg="private PostgreSQL runs again" folder=/d`},
			says: []string{"private PostgreSQL ended, restarting it: signal: killed (folder=/d)", "private PostgreSQL runs again (folder=/d)"},
		},
		"a warning of the environment that all share": {log: []string{at + `WARN msg="unknown setting" name=POLL_ORDER did_you_mean=POLL_ORDERS`}, says: []string{"once: unknown setting (name=POLL_ORDER did_you_mean=POLL_ORDERS)"}},
		"what is no record of a log": {
			log:  []string{"subscribers: POLL_ORDERS: x=y", "panic: oh", "time=", `time=x level="`, "=", "a"},
			says: []string{"subscribers: POLL_ORDERS: x=y", "panic: oh", "time=", `time=x level="`, "=", "a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var says []string
				e := newEvents(func(text string) { says = append(says, text) }, func(text string) { says = append(says, "once: "+text) })
				for _, line := range x.log {
					if line == "" {
						time.Sleep(repeatAfter + time.Second)
						continue
					}
					e.line([]byte(line))
				}
				if !slices.Equal(says, x.says) {
					t.Errorf("%q, want %q", says, x.says)
				}
			})
		})
	}
}

// The log of a service has all its lines, the console those that matter, or all.
func TestOutput(t *testing.T) {
	t.Parallel()
	const record = `time=2026-11-29T12:00:00.000Z level=INFO msg=listening url=http://127.0.0.1:8090`
	for _, verbose := range []bool{false, true} {
		var got calls
		c := &company{dir: t.TempDir(), out: newConsole(&got, nil), verbose: verbose}
		if err := os.Mkdir(c.logDir(), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"of the start before\n", record + "\nlast"} {
			out := c.output("warehouse")
			_, _ = io.WriteString(out, line)
			out.flush()
		}
		path := filepath.Join(c.logDir(), "warehouse.log")
		now, err := os.ReadFile(path)
		before, errBefore := os.ReadFile(path + ".1")
		if err := errors.Join(err, errBefore); err != nil || string(now) != record+"\nlast\n" || string(before) != "of the start before\n" {
			t.Errorf("the log is %q, before it %q, %v", now, before, err)
		}
		want := []string{"warehouse | of the start before\n", "warehouse | last\n"}
		if verbose {
			want = slices.Insert(want, 1, "warehouse | "+record+"\n")
		}
		if !slices.Equal(got, want) {
			t.Errorf("verbose %t: printed %q", verbose, got)
		}
	}
}

// A full disk is told once: with what to do if a service says so.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	var got calls
	out := &source{console: newConsole(&got, nil), name: sales, log: full}
	for range 2 {
		_, _ = io.WriteString(out, "sales-feed: could not extend file: No space left on device\n")
	}
	text := strings.Join(got, "")
	if len(got) != 4 || strings.Count(text, "up        | the disk is full: free some space there, or ") != 1 || strings.Count(text, "up        | the log of sales misses lines: write /dev/full: no space left on device\n") != 1 {
		t.Errorf("%q", got)
	}
}

// On a terminal the last line shows what goes on, and lines go above it. Elsewhere there is no such line.
func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got calls
		c := newConsole(&got, nil)
		c.progress(func() string { return "building" })()
		if len(got) > 0 {
			t.Errorf("not on a terminal: %q", got)
		}
		c.terminal = true
		stop := c.progress(func() string { return strings.Repeat("long ", 40) })
		time.Sleep(2100 * time.Millisecond)
		c.line(sales, "a line")
		stop()
		stop()
		c.line(sales, "another")
		n := len(got)
		if n < 10 || got[0] != clearLine+"up        |   0s "+strings.Repeat("long ", 12)+"lo" || !strings.HasPrefix(got[n-3], clearLine+"sales     | a line\nup        |   2s long ") ||
			got[n-2] != clearLine || got[n-1] != "sales     | another\n" {
			t.Errorf("%q", got)
		}
	})
}
