package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/mattn/go-isatty"
)

const self = "up"

// maxLine is about the limit of bytes in one line; a longer one is continued on a new line.
const maxLine = 1 << 20

// A console writes lines of several sources. It writes each line as a whole, after its source's name.
type console struct {
	mu     sync.Mutex
	w      io.Writer
	colour bool
	names  []string
	width  int
}

func newConsole(w io.Writer, env map[string]string) *console {
	f, ok := w.(*os.File)
	c := &console{w: w, colour: ok && isatty.IsTerminal(f.Fd()) && env["NO_COLOR"] == "" && env["TERM"] != "dumb"}
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
	_, _ = c.w.Write(fmt.Appendf(nil, "%s%s\n", prefix, line)) // in one call, so that a line stays whole
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

// A source writes whole lines to the console, after its name.
type source struct {
	*console
	name string
	rest []byte // a line without its end
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
	if len(s.rest) > 0 {
		s.write(s.name, bytes.TrimRight(s.rest, "\r\n"))
		s.rest = s.rest[:0]
	}
}
