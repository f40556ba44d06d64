package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	failureGrace = 5 * time.Second // a failure of polls that is over before is in the log alone
	repeatAfter  = time.Minute     // a warning that comes again before is in the log alone
)

// changes are the messages of level INFO that tell of a change of state.
var changes = []string{
	"polls succeed again", "resync ended", "rejected entries were applied", "private PostgreSQL runs again", "tokens file read again",
}

// events chooses, of the log of one service, what is printed: changes of state, warnings, and lines that are no log
// records, such as the error with which the service ends.
type events struct {
	print func(text string)
	once  func(text string) // prints what all services say, since their environment is the same

	mu      sync.Mutex
	failing map[string]*failure  // by feed
	behind  map[string]bool      // feeds of which more entries were to be copied
	told    map[string]time.Time // warnings, by message and feed
}

type failure struct {
	wait *time.Timer // until it is printed
	told bool
}

func newEvents(print, once func(string)) *events {
	return &events{print: print, once: once, failing: map[string]*failure{}, behind: map[string]bool{}, told: map[string]time.Time{}}
}

func (e *events) line(line []byte) {
	r, ok := parseRecord(string(line))
	if !ok {
		e.print(string(line))
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	feed := r.get("feed")
	before := e.failing[feed]
	switch {
	case r.msg == "poll failed":
		if before == nil {
			o := new(failure)
			o.wait = time.AfterFunc(failureGrace, func() {
				e.mu.Lock()
				defer e.mu.Unlock()
				if e.failing[feed] == o {
					o.told = true
					e.print(r.text("next_poll_in"))
				}
			})
			e.failing[feed] = o
		}
	case r.msg == "polls succeed again":
		delete(e.failing, feed)
		delete(e.behind, feed)
		if before != nil {
			before.wait.Stop()
		}
		if before == nil || before.told {
			e.print(r.text())
		}
	case r.msg == "copied":
		was, behind := e.behind[feed], r.get("behind")
		if e.behind[feed] = behind != "0"; e.behind[feed] && !was {
			e.print(fmt.Sprintf("%s: catching up, %s entries behind", feed, behind))
		} else if was && !e.behind[feed] {
			e.print(fmt.Sprintf("%s: caught up, %s entries copied", feed, r.get("entries")))
		}
	case r.msg == "unknown setting":
		e.once(r.text())
	case slices.Contains(changes, r.msg):
		e.print(r.text())
	case r.level == "WARN" || r.level == "ERROR":
		if now := time.Now(); now.Sub(e.told[feed+r.msg]) > repeatAfter {
			e.told[feed+r.msg] = now
			e.print(r.text())
		}
	}
}

// A record is a line of the log.
type record struct {
	level, msg string
	attrs      []attr
}

type attr struct{ key, value string }

// parseRecord parses a line of key=value as log/slog writes it.
func parseRecord(line string) (r record, ok bool) {
	for rest := line; rest != ""; rest = strings.TrimPrefix(rest, " ") {
		var a attr
		if a.key, rest, ok = strings.Cut(rest, "="); !ok {
			return r, false
		}
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			a.value, _ = strconv.Unquote(quoted)
			rest = rest[len(quoted):]
		} else {
			a.value, _, _ = strings.Cut(rest, " ")
			rest = rest[len(a.value):]
		}
		r.attrs = append(r.attrs, a)
	}
	isRecord := len(r.attrs) >= 3 && r.attrs[0].key == "time" && r.attrs[1].key == "level" && r.attrs[2].key == "msg"
	if isRecord {
		r.level, r.msg, r.attrs = r.attrs[1].value, r.attrs[2].value, r.attrs[3:]
	}
	return r, isRecord
}

func (r record) get(key string) string {
	for _, a := range r.attrs {
		if a.key == key {
			return a.value
		}
	}
	return ""
}

// text returns the record for people: its feed, message, error and other attributes, without those of some keys.
func (r record) text(without ...string) string {
	var text strings.Builder
	if feed := r.get("feed"); feed != "" {
		fmt.Fprintf(&text, "%s: ", feed)
	}
	text.WriteString(r.msg)
	if err := r.get("error"); err != "" {
		fmt.Fprintf(&text, ": %s", strings.TrimSpace(err))
	}
	var rest []string
	for _, a := range r.attrs {
		if !slices.Contains(append(without, "feed", "error"), a.key) {
			rest = append(rest, a.key+"="+a.value)
		}
	}
	if len(rest) > 0 {
		fmt.Fprintf(&text, " (%s)", strings.Join(rest, " "))
	}
	return text.String()
}

// noSpace reports whether a text is about a full disk, in the words of the system or of PostgreSQL.
func noSpace[T string | []byte](text T) bool {
	return bytes.Contains(bytes.ToLower([]byte(text)), []byte("no space left on device"))
}
