package daemon

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Level is the least level of what is logged. The zero Level is info.
type Level slog.Level

var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// UnmarshalText reads debug, info, warn or error.
func (l *Level) UnmarshalText(text []byte) error {
	level, ok := levels[strings.ToLower(string(text))]
	if !ok {
		return fmt.Errorf("takes debug, info, warn or error, not %q", text)
	}
	*l = Level(level)
	return nil
}

// Level returns the level.
func (l Level) Level() slog.Level { return slog.Level(l) }

// Logger returns a logger that writes one line of key=value per record of at least level. Times are UTC. Tokens and the
// passwords of URLs are redacted. A writer that does not take a line within a second, such as a pipe that nobody reads,
// holds up nothing: it gets no more lines until it has taken that one. A process with a logger goes on when the reader
// of its stdout or stderr is gone: writes fail instead of ending it.
func Logger(w io.Writer, level slog.Leveler) *slog.Logger {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return slog.New(slog.NewTextHandler(&patientWriter{w: w}, &slog.HandlerOptions{Level: level, ReplaceAttr: tidy}))
}

// patience is how long lines of the log, or of stderr, may wait for their reader: together a second at once, and a
// tenth of the time after that.
const patience = time.Second

// A patientWriter writes lines to w, and drops lines that would wait for w.
type patientWriter struct {
	w       io.Writer
	mu      sync.Mutex
	waited  time.Duration // of which that much is used up
	last    time.Time     // when that was so
	writing chan error    // gets the outcome of the line that was not taken in time; nil means that there is none
	dropped int
}

func (p *patientWriter) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writing != nil {
		select {
		case outcome := <-p.writing:
			_ = outcome // it was told as success
		default:
			p.dropped++
			return len(line), nil
		}
	}
	text := bytes.Clone(line) // the caller uses it again
	if p.dropped > 0 {
		text = append(fmt.Appendf(nil, "time=%s level=WARN msg=\"lines of the log are missing here: nobody read it\" lines=%d\n",
			time.Now().UTC().Format(timeFormat), p.dropped), text...)
	}
	began := time.Now()
	p.waited = max(p.waited-max(began.Sub(p.last), 0)/10, 0) // a clock may jump
	defer func() {
		p.last = time.Now()
		p.waited = min(p.waited+max(p.last.Sub(began), 0), patience)
	}()
	written := make(chan error, 1)
	go func() {
		_, err := p.w.Write(text)
		written <- err
	}()
	select {
	case err := <-written:
		p.writing, p.dropped = nil, 0
		return len(line), err
	case <-time.After(patience - p.waited):
		p.writing, p.dropped = written, 0
		return len(line), nil
	}
}

// userinfo matches the password of a URL anywhere in a text.
var userinfo = regexp.MustCompile(`(://[^\s/?#:@]*):[^\s/?#]*@`)

// token matches a token of a reader, an operator or a buyer, or the secret of a link, anywhere in a text.
var token = regexp.MustCompile(`datafeed_[A-Za-z0-9_=-]{20,}`)

func redact(s string) string {
	return token.ReplaceAllString(userinfo.ReplaceAllString(s, "$1:xxxxx@"), "datafeed_xxxxx")
}

const timeFormat = "2006-01-02T15:04:05.000Z"

func tidy(groups []string, a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch {
	case a.Key == slog.TimeKey && len(groups) == 0 && v.Kind() == slog.KindTime:
		return slog.String(a.Key, v.Time().UTC().Format(timeFormat))
	case v.Kind() == slog.KindString, v.Kind() == slog.KindAny && a.Key != slog.LevelKey:
		s := v.String()
		if r := redact(s); r != s {
			return slog.String(a.Key, r)
		}
	}
	return a
}
