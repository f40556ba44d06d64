package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// calls keeps what each Write was given: a line must be one of them.
type calls []string

func (c *calls) Write(b []byte) (int, error) {
	*c = append(*c, string(b))
	return len(b), nil
}

func TestConsole(t *testing.T) {
	t.Parallel()
	t.Run("lines of several writers stay whole, in order and complete", func(t *testing.T) {
		t.Parallel()
		var got calls
		c := newConsole(&got, nil)
		long := strings.Repeat("long", 100_000) // longer than a pipe
		var all sync.WaitGroup
		for _, name := range []string{"sales", "warehouse", "mailer"} {
			all.Go(func() {
				w := &source{console: c, name: name}
				for i := range 50 {
					fmt.Fprintf(w, "%d ", i)
					fmt.Fprintf(w, "%s\n", long)
				}
				fmt.Fprint(w, "no newline at the end")
				w.flush()
			})
		}
		all.Wait()
		next := map[string]int{}
		for _, l := range got {
			name, text, _ := strings.Cut(l, " | ")
			if len(name) != len("dashboard") {
				t.Fatalf("%.40q is not aligned", l)
			}
			want := fmt.Sprintf("%d %s\n", next[name], long)
			if next[name] == 50 {
				want = "no newline at the end\n"
			}
			if text != want {
				t.Fatalf("line %d of %s: %.40q, %d bytes", next[name], name, text, len(text))
			}
			next[name]++
		}
		if len(got) != 3*51 {
			t.Errorf("%d lines", len(got))
		}
	})
	t.Run("a line without end does not fill the memory", func(t *testing.T) {
		t.Parallel()
		var got calls
		w := &source{console: newConsole(&got, nil), name: "sales"}
		for part := range slices.Chunk([]byte(strings.Repeat("x", 3*maxLine)+"\r\n\nend"), 1000) {
			_, _ = w.Write(part)
		}
		w.flush()
		if len(got) < 4 || strings.Count(strings.Join(got, ""), "x") != 3*maxLine || got[len(got)-1] != "sales     | end\n" {
			t.Errorf("%d lines, the last one %.40q", len(got), got[len(got)-1])
		}
	})
	t.Run("a name in colour", func(t *testing.T) {
		t.Parallel()
		var got calls
		c := newConsole(&got, nil)
		c.colour = true
		c.reserve("warehouse")
		c.line("warehouse", "%d parts", 7)
		if len(got) != 1 || !strings.HasPrefix(got[0], "\x1b[") || !strings.HasSuffix(got[0], "warehouse | \x1b[0m7 parts\n") {
			t.Errorf("%q", got)
		}
	})
}
