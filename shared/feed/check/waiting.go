package check

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

func (c *checker) waits() error {
	if len(c.walked) > 0 {
		a, err := c.get(after("0", 1), "Prefer", "wait=20")
		if err != nil {
			return err
		}
		if a.took > 10*time.Second {
			return fmt.Errorf("a page with entries was held for %s", a.took)
		}
	}
	p, err := c.page("?limit=1")
	if err != nil {
		return err
	}
	a, err := c.get(after(p.DataFeed.Cursor, 100), "Prefer", "wait=1")
	if err != nil {
		return err
	}
	applied := a.header.Get("Preference-Applied")
	if applied == "" {
		return skipError("the source does not hold requests")
	}
	var wait int
	if _, err := fmt.Sscanf(applied, "wait=%d", &wait); err != nil || wait > 1 {
		return fmt.Errorf("Preference-Applied is %q", applied)
	}
	if a.took > time.Duration(wait)*time.Second+10*time.Second {
		return fmt.Errorf("with wait=%d the answer came after %s", wait, a.took)
	}
	return a.want(http.StatusOK, http.StatusNotModified)
}

func (c *checker) wakes() error {
	if c.Append == nil {
		return skipError("nothing was given to append an entry")
	}
	p, err := c.page("?limit=1")
	if err != nil {
		return err
	}
	type result struct {
		p   *page
		err error
	}
	held := make(chan result, 1)
	go func() {
		p, err := c.page(after(p.DataFeed.Cursor, 100), "Prefer", "wait=30")
		held <- result{p, err}
	}()
	select {
	case <-time.After(500 * time.Millisecond): // the request should be there by then
	case r := <-held:
		return errors.Join(errors.New("the request was answered before anything was appended"), r.err)
	}
	if err := c.Append(c.ctx); err != nil {
		return fmt.Errorf("append an entry: %w", err)
	}
	r := <-held
	if r.err != nil {
		return r.err
	}
	if len(r.p.Items) == 0 || r.p.Items[0].DataFeed.Position != positionOf(p.DataFeed.Cursor)+1 {
		return fmt.Errorf("the answer has %d items after %s", len(r.p.Items), p.DataFeed.Cursor)
	}
	return c.walk() // all that was there is as it was, and the new entry follows
}

func (c *checker) stream() error {
	if err := c.some(1); err != nil {
		return err
	}
	p, err := c.page(after("0", 3))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, answerTimeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, "?after=0", "Accept", "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotImplemented {
		return skipError("the source has no event streams")
	}
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || !strings.HasPrefix(got, "text/event-stream") {
		return fmt.Errorf("the stream answers %d as %q", resp.StatusCode, got)
	}
	lines := bufio.NewReader(resp.Body)
	var id string
	for n := 0; n < len(p.Items); {
		line, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the stream ended after %d events: %w", n, err)
		}
		if v, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "id: "); ok {
			id = v
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var i item
		if err := json.Unmarshal([]byte(data), &i); err != nil {
			return err
		}
		if want := p.Items[n]; i.ID != want.ID || i.DataFeed.Position != want.DataFeed.Position || positionOf(id) != want.DataFeed.Position {
			return fmt.Errorf("event %s is position %d, where %d belongs", id, i.DataFeed.Position, want.DataFeed.Position)
		}
		n++
	}
	if id != p.DataFeed.Cursor {
		return fmt.Errorf("the event's id is %s, the cursor of the page that ends there %s", id, p.DataFeed.Cursor)
	}
	return nil
}
