package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
)

const self = "up"

// maxLine is about the limit of bytes in one line; a longer one is continued on a new line.
const maxLine = 1 << 20

// A console writes lines of several sources. It writes each line as a whole, after its source's name.
type console struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	colour   bool
	names    []string
	width    int
	warned   map[string]bool
	status   string // the last line of a terminal, which is written over
}

func newConsole(w io.Writer, env map[string]string) *console {
	f, ok := w.(*os.File)
	c := &console{w: w, warned: map[string]bool{}, terminal: ok && isatty.IsTerminal(f.Fd()) && env["TERM"] != "dumb"}
	c.colour = c.terminal && env["NO_COLOR"] == ""
	c.reserve(self)
	c.reserve("dashboard") // the widest name, so that lines before the list of services are aligned, too
	c.reserve(shoppersName)
	return c
}

// reserve makes room for a name, and gives it a colour.
func (c *console) reserve(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names = append(c.names, name)
	c.width = max(c.width, len(name))
}

func (c *console) line(name, format string, args ...any) {
	c.write(name, fmt.Appendf(nil, format, args...))
}

func (c *console) write(name string, line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	prefix := fmt.Sprintf("%-*s | ", c.width, name)
	if c.colour {
		prefix = fmt.Sprintf("\x1b[%dm%s\x1b[0m", c.colourOf(name), prefix)
	}
	text := fmt.Appendf(nil, "%s%s\n", prefix, line)
	if c.status != "" {
		text = fmt.Appendf(nil, "%s%s%s", clearLine, text, c.status)
	}
	_, _ = c.w.Write(text) // in one call, so that a line stays whole
}

const (
	clearLine = "\r\x1b[K"
	narrow    = 79 // columns of a terminal that the status takes at most
)

// progress shows, on a terminal alone, what is going on and for how long, until stop is called.
func (c *console) progress(text func() string) (stop func()) {
	if !c.terminal {
		return func() {}
	}
	began, ended, stopped := time.Now(), make(chan struct{}), make(chan struct{})
	show := func(status string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.status = status
		_, _ = io.WriteString(c.w, clearLine+status)
	}
	go func() {
		defer close(stopped)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			status := []rune(fmt.Sprintf("%-*s | %3.0fs %s", c.width, self, time.Since(began).Seconds(), text()))
			show(string(status[:min(len(status), narrow)]))
			select {
			case <-tick.C:
			case <-ended:
				show("")
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(ended); <-stopped })
}

func (c *console) colourOf(name string) int {
	if name == self {
		return 1 // bold
	}
	for i, n := range c.names {
		if n == name {
			return 31 + (i+4)%6
		}
	}
	return 0
}

// A source takes the lines of one process. Each goes to its log, and what matters of them to the console.
type source struct {
	*console
	name   string
	log    *os.File // nil means none
	events *events  // nil means that all lines go to the console
	rest   []byte   // a line without its end
}

func (s *source) Write(p []byte) (int, error) {
	for part := range bytes.Lines(p) {
		s.rest = append(s.rest, part...)
		if bytes.HasSuffix(part, []byte("\n")) || len(s.rest) >= maxLine {
			s.flush()
		}
	}
	return len(p), nil
}

// flush writes what there is of a line.
func (s *source) flush() {
	if len(s.rest) == 0 {
		return
	}
	line := bytes.TrimRight(s.rest, "\r\n")
	if s.events != nil {
		s.events.line(line)
	} else {
		s.write(s.name, line)
	}
	if noSpace(line) {
		s.warnOnce("the disk is full: " + freeSpace)
	}
	if s.log != nil {
		if _, err := s.log.Write(append(line, '\n')); err != nil {
			s.warnOnce(fmt.Sprintf("the log of %s misses lines: %v", s.name, err))
		}
	}
	s.rest = s.rest[:0]
}

const freeSpace = "free some space there, or choose a folder on another disk with --dir; TMPDIR and GOCACHE name those of the build"

// warnOnce writes a line of up itself, unless it has been written before.
func (c *console) warnOnce(line string) {
	c.mu.Lock()
	again := c.warned[line]
	c.warned[line] = true
	c.mu.Unlock()
	if !again {
		c.line(self, "%s", line)
	}
}
