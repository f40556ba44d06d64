package follow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/edison-cars/data-feeds/shared/feed"
)

type line struct {
	Position int64        `json:"position"`
	Cursor   *feed.Cursor `json:"cursor,omitempty"` // only of a page's last entry: pages have no other cursor
	Version  int64        `json:"version"`
	Updated  feed.Time    `json:"updated"`
	Deleted  bool         `json:"deleted"`
	Erased   bool         `json:"erased,omitempty"`
	// Superseded means that there is no entity any more, since a newer version follows: at or before Compacted.
	Superseded bool         `json:"superseded,omitempty"`
	Compacted  *feed.Cursor `json:"compacted,omitempty"`
	ID         uuid.UUID    `json:"id"`
	Entity     any          `json:"entity,omitempty"` // raw JSON, or XML as a string
}

type printer struct {
	w      io.Writer
	xml    bool
	lines  bytes.Buffer
	encode *json.Encoder
}

const writeSize = 32 << 10 // bytes, plus up to one line

func newPrinter(w io.Writer, xml bool) *printer {
	p := &printer{w: w, xml: xml}
	p.encode = json.NewEncoder(&p.lines)
	p.encode.SetEscapeHTML(false)
	return p
}

var (
	errClosed = errors.New("stdout is closed") // the reader of the pipe has gone
	errWrite  = errors.New("cannot write")
)

// print prints the page. When ctx ends, it stops after the current line. It returns errClosed, errWrite, feed.ErrPage
// or the error of ctx.
func (p *printer) print(ctx context.Context, page *feed.Page) error {
	for i, e := range page.Entries {
		l := line{Position: e.Position, Version: e.Version, Updated: feed.TimeOf(e.Updated), Deleted: e.Deleted, Erased: e.Erased, Superseded: e.Superseded, ID: e.ID}
		if e.Superseded {
			l.Compacted = &page.Compacted
		}
		last := i == len(page.Entries)-1
		if last {
			l.Cursor = &page.Cursor
		}
		switch {
		case len(e.Entity) == 0:
		case p.xml:
			l.Entity = string(e.Entity)
		default:
			l.Entity = e.Entity
		}
		if err := p.encode.Encode(l); err != nil {
			return fmt.Errorf("%w: the entry at position %d: %w", feed.ErrPage, e.Position, err)
		}
		if !last && p.lines.Len() < writeSize {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch _, err := p.lines.WriteTo(p.w); {
		case errors.Is(err, syscall.EPIPE):
			return errClosed
		case err != nil:
			return fmt.Errorf("%w: %w", errWrite, err)
		}
	}
	return nil
}

// whenClosed calls then when the reader of a pipe has gone, which is not noticed while nothing is written.
func whenClosed(f *os.File, then func()) {
	info, err := f.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return
	}
	of := []unix.PollFd{{Fd: int32(f.Fd())}}
	for {
		_, err := unix.Poll(of, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && of[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
			then()
		}
		return
	}
}
