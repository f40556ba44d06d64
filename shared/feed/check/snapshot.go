package check

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// snapshotPage asks for a page of a snapshot.
func (c *checker) snapshotPage(query string) (*page, error) {
	const begin = "?snapshot=0&limit=1"
	a, err := c.get(begin, "Accept", "application/feed+json")
	if err != nil {
		return nil, err
	}
	if a.status == http.StatusBadRequest || a.status == http.StatusNotFound || a.status == http.StatusOK && !strings.Contains(string(a.body), `"snapshot"`) {
		return nil, skipError("the source has no snapshots")
	}
	return c.json(query)
}

// walkSnapshot calls visit with the pages of a snapshot: first with some short ones.
func (c *checker) walkSnapshot(visit func(p *page, limit int) error) error {
	limit, entities := 3, 0
	query := fmt.Sprintf("?snapshot=0&limit=%d", limit)
	for pages := 1; ; pages++ {
		p, err := c.snapshotPage(query)
		if err != nil {
			return err
		}
		if err := visit(p, limit); err != nil {
			return err
		}
		if entities += len(p.Items); entities >= c.MaxEntries {
			return nil
		}
		next, err := url.Parse(p.DataFeed.Next)
		if err != nil {
			return err
		}
		q := next.Query()
		if !q.Has("snapshot") {
			return nil
		}
		if pages == 4 {
			limit = walkLimit
			q.Set("limit", fmt.Sprint(limit))
		}
		query = "?" + q.Encode()
	}
}

func (c *checker) snapshot() error {
	if err := c.some(0); err != nil {
		return err
	}
	newest, first := map[string]item{}, map[string]int64{}
	for _, i := range c.walked {
		if newest[i.ID] = i; i.DataFeed.Version == 1 {
			first[i.ID] = i.DataFeed.Position
		}
	}
	last, found, head := "", map[string]bool{}, int64(0)
	err := c.walkSnapshot(func(p *page, _ int) error {
		if last == "" {
			head = positionOf(p.DataFeed.Snapshot)
		}
		for _, i := range p.Items {
			if i.ID <= last {
				return fmt.Errorf("%s has %s after %s", p.answer.asked, i.ID, last)
			}
			last, found[i.ID] = i.ID, true
			if !lowerUUID.MatchString(i.ID) {
				return fmt.Errorf("%s has the id %q", p.answer.asked, i.ID)
			}
			want, known := newest[i.ID]
			switch got := i.DataFeed; {
			case got.Position > head:
				return fmt.Errorf("%s has an entry at position %d, beyond the snapshot", p.answer.asked, got.Position)
			case got.Position <= int64(len(c.walked)) && (!known || got.Position != want.DataFeed.Position || got.Version != want.DataFeed.Version ||
				got.Deleted != want.DataFeed.Deleted || got.Erased != want.DataFeed.Erased || got.Superseded != want.DataFeed.Superseded || string(got.Entity) != string(want.DataFeed.Entity) || i.Updated != want.Updated):
				return fmt.Errorf("%s has version %d of %s at position %d, which is not its newest entry", p.answer.asked, got.Version, i.ID, got.Position)
			case known && got.First != first[i.ID] || got.First > got.Position || got.First < 1:
				return fmt.Errorf("%s has %d as the first position of %s", p.answer.asked, got.First, i.ID)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id := range newest {
		if !found[id] && (id <= last || len(found) < c.MaxEntries) {
			return fmt.Errorf("the snapshot lacks %s", id)
		}
	}
	if head < int64(len(c.walked)) {
		return fmt.Errorf("the snapshot is as of position %d, and the feed had %d entries before it", head, len(c.walked))
	}
	return nil
}

func (c *checker) snapshotLinks() error {
	var snapshot, next, last string
	err := c.walkSnapshot(func(p *page, limit int) error {
		d := p.DataFeed
		if d.Snapshot == "" || snapshot != "" && d.Snapshot != snapshot {
			return fmt.Errorf("%s is of the snapshot %q, and the first page of %q", p.answer.asked, d.Snapshot, snapshot)
		}
		if d.Cursor != "" || d.Sealed != nil || d.UpToDate != nil {
			return fmt.Errorf("%s has cursor, sealed or up_to_date, like a page of a replay", p.answer.asked)
		}
		snapshot, next = d.Snapshot, d.Next
		u, err := url.Parse(next)
		if err != nil || !u.IsAbs() || p.answer.link("next") != next {
			return fmt.Errorf("next of %s is %q, and %q in its header", p.answer.asked, next, p.answer.link("next"))
		}
		q := u.Query()
		if q.Get("limit") != fmt.Sprint(limit) || len(p.Items) > limit {
			return fmt.Errorf("%s has %d items, and %s as next", p.answer.asked, len(p.Items), next)
		}
		begin := last
		if n := len(p.Items); n > 0 {
			last = p.Items[n-1].uuid()
		}
		last = max(last, d.Through)
		if q.Has("snapshot") && (q.Get("snapshot") != snapshot || q.Get("from") != last || last == begin) {
			return fmt.Errorf("next of %s is %s, after %d items", p.answer.asked, next, len(p.Items))
		}
		return nil
	})
	u, _ := url.Parse(next)
	if err != nil || u.Query().Has("snapshot") {
		return err
	}
	if u.Query().Get("after") != snapshot {
		return fmt.Errorf("the snapshot %s ends with %s as next", snapshot, next)
	}
	if _, err := c.page("?" + u.RawQuery); err != nil {
		return err
	}
	p, err := c.snapshotPage("?snapshot=0&limit=1&history=1-abcdefabcdef")
	if err == nil && !strings.Contains(p.DataFeed.Next, "&history=1-abcdefabcdef") {
		err = fmt.Errorf("next of %s does not keep the history", p.answer.asked)
	}
	return err
}

func (c *checker) snapshotFormats() error {
	p, err := c.snapshotPage("?snapshot=0&limit=100")
	if err != nil {
		return err
	}
	rest := fmt.Sprintf("?snapshot=%s&limit=100", p.DataFeed.Snapshot)
	if err := c.sameInAtom(rest); err != nil {
		return err
	}
	a, err := c.get(rest, "Accept", "text/html")
	if err == nil {
		err = a.want(http.StatusOK)
	}
	if err != nil {
		return err
	}
	events, a, err := c.events(rest)
	if errors.As(err, new(skipError)) {
		return nil
	} else if err != nil {
		return err
	}
	if len(events) != len(p.Items) || a.link("next") == "" {
		return fmt.Errorf("%s has %d events, and the link next %q", a.asked, len(events), a.link("next"))
	}
	for n, i := range p.Items {
		if e := events[n]; e.Subject != i.uuid() || positionOf(e.ID) == i.DataFeed.Position && (e.Method == http.MethodDelete) != i.DataFeed.Deleted {
			return fmt.Errorf("event %d of %s is of %s, and the item of %s", n+1, a.asked, e.Subject, i.uuid())
		}
	}
	return nil
}

func (c *checker) snapshotCaching() error {
	p, err := c.snapshotPage("?snapshot=0&limit=2")
	if err != nil {
		return err
	}
	control := p.answer.header.Get("Cache-Control")
	if !regexp.MustCompile(`no-cache|no-store`).MatchString(control) || c.Token != "" && !regexp.MustCompile(`private|no-store`).MatchString(control) {
		return fmt.Errorf("%s has Cache-Control %q", p.answer.asked, control)
	}
	return nil
}

func (c *checker) snapshotRefusals() error {
	p, err := c.snapshotPage("?snapshot=0&limit=1")
	if err != nil {
		return err
	}
	const id = "00000000-0000-4000-8000-00000000fade"
	for _, rest := range []string{
		"?snapshot=0&after=0", "?snapshot=0&before=1-000000000000", "?snapshot=0&snapshot=0", "?snapshot=yes", "?snapshot=0&limit=1001", "?from=" + id,
		"?after=0&from=" + id, "?snapshot=" + p.DataFeed.Snapshot + "&from=1",
	} {
		if err := c.status(http.StatusBadRequest, rest); err != nil {
			return err
		}
	}
	lost := fmt.Sprintf("?snapshot=%d-fedcba987654&from=%s", positionOf(p.DataFeed.Snapshot)+1_000_000, id)
	a, err := c.get(lost)
	if err == nil {
		err = a.want(http.StatusGone)
	}
	if err == nil && a.link("start") == "" {
		err = fmt.Errorf("%s has no link start", a.asked)
	}
	return err
}
