package check

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// promises are checked in this order. The first ones walk the feed, which later ones look at.
var promises = []promise{
	{"Pages", "a replay from 0 has every position once, in order, up to the head", (*checker).walk},
	{"Pages", "a replay page ends on a multiple of its limit, or at the head", (*checker).bounds},
	{"Pages", "next is the replay after cursor, with the same limit", (*checker).next},
	{"Pages", "only a full page before a full page is sealed", (*checker).sealed},
	{"Pages", "a page is up to date only if the feed ends with it", (*checker).upToDate},
	{"Pages", "the replay after the head is empty, and keeps the cursor", (*checker).atHead},
	{"Model", "ids are UUIDs in lower case, and not zero", (*checker).ids},
	{"Model", "the versions of an entity are 1, 2, 3 ...", (*checker).versions},
	{"Model", "the time of an entity grows strictly with its version, and is in UTC with six digits", (*checker).times},
	{"Model", "an item has an object as its entity, or is deleted or superseded", (*checker).entities},
	{"Model", "of an erased entity nothing is left", (*checker).erased},
	{"Compaction", "a superseded entry is neither an entity nor a deletion, and a newer version follows", (*checker).superseded},
	{"Compaction", "a page with superseded entries says up to where the newer versions are, a place of this history", (*checker).compacted},
	{"URLs", "the feed's own URL has the newest entries first", (*checker).newest},
	{"URLs", "the pages of older entries lead to the first one", (*checker).older},
	{"URLs", "an entity's URL has its versions, newest first", (*checker).entity},
	{"URLs", "the list of feeds has the feed", (*checker).list},
	{"URLs", "parameters that exclude each other or stand twice are refused, unknown ones are ignored", (*checker).parameters},
	{"URLs", "HEAD answers with the header of GET", (*checker).head},
	{"JSON Feed", "the document is of version 1.1, with title, feed_url and items", (*checker).document},
	{"Atom", "the document has the same entries", (*checker).atom},
	{"Atom", "an archive is linked from the newest page, and says so", (*checker).archive},
	{"HTML", "browsers get a page", (*checker).html},
	{"Snapshots", "a snapshot has each entity once, by its newest entry, in the order of the ids", (*checker).snapshot},
	{"Snapshots", "the pages link to each other, and the last one to the replay after the snapshot", (*checker).snapshotLinks},
	{"Snapshots", "Atom, HTML and CloudEvents have the same snapshot", (*checker).snapshotFormats},
	{"Snapshots", "no cache answers for a page without asking the source", (*checker).snapshotCaching},
	{"Snapshots", "a snapshot of another history gets 410, and wrong parameters 400", (*checker).snapshotRefusals},
	{"Another history", "a cursor of another history gets 410 with a link to start again", (*checker).diverged},
	{"Schema", "the schema is of JSON Schema 2020-12, has an ETag, and pages link to it", (*checker).schema},
	{"Schema", "the newest entity meets the schema", (*checker).meetsSchema},
	{"Views", "a view has the entries of its feed at their places, with its own members only, and those outside of it deleted", (*checker).views},
	{"Waiting", "a request waits only at the head, and no longer than it asked", (*checker).waits},
	{"Waiting", "a waiting request is answered when an entry is appended", (*checker).wakes},
	{"Event streams", "the events are the entries, and their ids the cursors", (*checker).stream},
	{"CloudEvents", "the events are the entries, and their ids the cursors", (*checker).cloudEvents},
	{"CloudEvents", "lastEventId is a cursor: empty at the head, 410 of another history", (*checker).lastEventID},
	{"CloudEvents", "a request waits for its timeout, and no cache answers it", (*checker).timeout},
	{"Caching", "ETags are strong, and If-None-Match takes them in every form", (*checker).etags},
	{"Caching", "ETags differ by format, view and content coding", (*checker).etagsDiffer},
	{"Caching", "Vary and Cache-Control are those of the page", (*checker).cacheControl},
	{"Caching", "Last-Modified is on sealed pages only, and matches exactly", (*checker).lastModified},
	{"Content negotiation", "the format is the one that Accept or the suffix asks for", (*checker).negotiation},
	{"Content negotiation", "gzip has the same document", (*checker).codings},
	{"Refusals", "refusals are problems that no cache stores", (*checker).refusals},
	{"Limits", "limit is 1 to 1000, and a cursor is a cursor", (*checker).limits},
}

// walkLimit is the limit of the walk's pages.
const walkLimit = 1000

func (c *checker) walk() error {
	c.walked, c.pages = nil, nil
	for cursor := "0"; ; {
		p, err := c.page(after(cursor, walkLimit))
		if err != nil {
			return err
		}
		for i, item := range p.Items {
			if want := positionOf(cursor) + int64(i) + 1; item.DataFeed.Position != want {
				return fmt.Errorf("the page after %s has position %d where %d belongs", cursor, item.DataFeed.Position, want)
			}
		}
		if got, want := positionOf(p.DataFeed.Cursor), positionOf(cursor)+int64(len(p.Items)); got != want {
			return fmt.Errorf("the page after %s ends with position %d, and its cursor is %s", cursor, want, p.DataFeed.Cursor)
		}
		c.walked, c.pages = append(c.walked, p.Items...), append(c.pages, *p)
		if *p.DataFeed.UpToDate || len(c.walked) >= c.MaxEntries {
			return nil
		}
		if len(p.Items) == 0 {
			return fmt.Errorf("the page after %s is empty and not up to date", cursor)
		}
		cursor = p.DataFeed.Cursor
	}
}

// some returns an error if the walk found fewer entries than a check needs.
func (c *checker) some(n int) error {
	if len(c.pages) == 0 {
		return skipError("the feed could not be read from its start")
	}
	if len(c.walked) < n {
		return skipError(fmt.Sprintf("the feed has %d entries, and this needs %d", len(c.walked), n))
	}
	return nil
}

func (c *checker) bounds() error {
	if err := c.some(4); err != nil {
		return err
	}
	start, err := c.page(after("0", 2))
	if err != nil {
		return err
	}
	for from, limits := range map[string][]int{"0": {1, 2, 3, 4}, start.DataFeed.Cursor: {1, 2, 3, 4}} {
		for _, limit := range limits {
			p, err := c.page(after(from, limit))
			if err != nil {
				return err
			}
			begin := positionOf(from)
			want := min((begin/int64(limit)+1)*int64(limit), max(int64(len(c.walked)), positionOf(p.DataFeed.Cursor)))
			if got := positionOf(p.DataFeed.Cursor); got != want {
				return fmt.Errorf("the page after %s with limit %d ends with position %d, not %d", from, limit, got, want)
			}
		}
	}
	return nil
}

func (c *checker) next() error {
	for _, p := range c.pages[:min(len(c.pages), 20)] {
		u, err := url.Parse(p.DataFeed.Next)
		if err != nil {
			return err
		}
		if q := u.Query(); !u.IsAbs() || q.Get("after") != p.DataFeed.Cursor || q.Get("limit") != fmt.Sprint(walkLimit) {
			return fmt.Errorf("next of the page with the cursor %s is %s", p.DataFeed.Cursor, p.DataFeed.Next)
		}
	}
	return nil
}

func (c *checker) sealed() error {
	if err := c.some(0); err != nil {
		return err
	}
	for _, limit := range []int{1, 2, walkLimit} {
		if len(c.walked) == 0 {
			break
		}
		p, err := c.page(after("0", limit))
		if err != nil {
			return err
		}
		if entries := len(c.walked); *p.DataFeed.Sealed && c.complete() && entries < 2*limit && c.Append == nil {
			return fmt.Errorf("the first page of %d is sealed, though the feed has %d entries", limit, entries)
		}
		if *p.DataFeed.Sealed && (p.DataFeed.Head != nil || *p.DataFeed.UpToDate) {
			return fmt.Errorf("the first page of %d is sealed, and tells of the head", limit)
		}
	}
	last := c.pages[len(c.pages)-1]
	if *last.DataFeed.Sealed {
		return fmt.Errorf("the page with the cursor %s is sealed, and the last one", last.DataFeed.Cursor)
	}
	return nil
}

// complete reports whether the walk came to the feed's end.
func (c *checker) complete() bool { return *c.pages[len(c.pages)-1].DataFeed.UpToDate }

func (c *checker) upToDate() error {
	if err := c.some(0); err != nil {
		return err
	}
	for i, p := range c.pages {
		if *p.DataFeed.UpToDate != (i == len(c.pages)-1) && c.complete() {
			return fmt.Errorf("the page with the cursor %s says up_to_date %t", p.DataFeed.Cursor, *p.DataFeed.UpToDate)
		}
		if head := p.DataFeed.Head; *p.DataFeed.UpToDate && (head == nil || *head != p.DataFeed.Cursor) {
			return fmt.Errorf("the page with the cursor %s is up to date, but its head is another one", p.DataFeed.Cursor)
		}
		if head := p.DataFeed.Head; head == nil && !*p.DataFeed.Sealed {
			return fmt.Errorf("the page with the cursor %s is not sealed and has no head", p.DataFeed.Cursor)
		}
	}
	return nil
}

func (c *checker) atHead() error {
	for range 3 { // entries may come
		newest, err := c.page("?limit=1")
		if err != nil {
			return err
		}
		p, err := c.page(after(newest.DataFeed.Cursor, 100))
		if err != nil {
			return err
		}
		if len(p.Items) > 0 {
			continue
		}
		if p.DataFeed.Cursor != newest.DataFeed.Cursor || !*p.DataFeed.UpToDate {
			return fmt.Errorf("the page after the head %s has the cursor %s, up_to_date %t", newest.DataFeed.Cursor, p.DataFeed.Cursor, *p.DataFeed.UpToDate)
		}
		return nil
	}
	return skipError("entries keep coming")
}

var lowerUUID = regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func (c *checker) ids() error {
	for _, i := range c.walked {
		if !lowerUUID.MatchString(i.ID) || strings.Trim(i.uuid(), "0-") == "" {
			return fmt.Errorf("the id of position %d is %q", i.DataFeed.Position, i.ID)
		}
	}
	return nil
}

func (c *checker) versions() error {
	last := map[string]int64{}
	for _, i := range c.walked {
		if last[i.ID]++; i.DataFeed.Version != last[i.ID] {
			return fmt.Errorf("position %d is version %d of its entity, after version %d", i.DataFeed.Position, i.DataFeed.Version, last[i.ID]-1)
		}
	}
	return nil
}

const wireTime = "2006-01-02T15:04:05.000000Z"

func (c *checker) times() error {
	last := map[string]time.Time{}
	for _, i := range c.walked {
		at, err := time.Parse(wireTime, i.Updated)
		if err != nil || at.Format(wireTime) != i.Updated {
			return fmt.Errorf("the time of position %d is %q", i.DataFeed.Position, i.Updated)
		}
		if before, seen := last[i.ID]; seen && !at.After(before) {
			return fmt.Errorf("position %d is of %s, not later than the version before it", i.DataFeed.Position, i.Updated)
		}
		last[i.ID] = at
	}
	return nil
}

func (c *checker) entities() error {
	for _, i := range c.walked {
		switch d := i.DataFeed; {
		case d.Deleted && d.Entity != nil, d.Erased && !d.Deleted:
			return fmt.Errorf("position %d is deleted or erased, and has an entity", d.Position)
		case d.Superseded: // see superseded
		case !d.Deleted && (len(d.Entity) == 0 || d.Entity[0] != '{'):
			return fmt.Errorf("the entity of position %d is no object, and it is not deleted", d.Position)
		}
	}
	return nil
}

func (c *checker) erased() error {
	erased := map[string]bool{}
	for _, i := range c.walked {
		if i.DataFeed.Erased {
			erased[i.ID] = true
		}
	}
	if len(erased) == 0 {
		return skipError("no entity is erased")
	}
	for _, i := range c.walked {
		if erased[i.ID] && (!i.DataFeed.Erased || i.DataFeed.Entity != nil) {
			return fmt.Errorf("the entity of position %d is erased, but not this entry", i.DataFeed.Position)
		}
	}
	return nil
}

func (c *checker) newest() error {
	p, err := c.page("")
	if err != nil {
		return err
	}
	if err := descending(p.Items); err != nil {
		return err
	}
	for _, limit := range []int{1, 3, 1000} {
		short, err := c.page(fmt.Sprintf("?limit=%d", limit))
		if err != nil {
			return err
		}
		if len(short.Items) > limit || len(short.Items) == 0 && len(c.walked) > 0 {
			return fmt.Errorf("?limit=%d has %d items", limit, len(short.Items))
		}
		if len(short.Items) > 0 && positionOf(short.DataFeed.Cursor) != short.Items[0].DataFeed.Position {
			return fmt.Errorf("?limit=%d begins with position %d, and its cursor is %s", limit, short.Items[0].DataFeed.Position, short.DataFeed.Cursor)
		}
	}
	return nil
}

func descending(items []item) error {
	for i := range items {
		if i > 0 && items[i].DataFeed.Position != items[i-1].DataFeed.Position-1 {
			return fmt.Errorf("position %d comes after %d", items[i].DataFeed.Position, items[i-1].DataFeed.Position)
		}
	}
	return nil
}

const olderPages = 20 // how many of them are followed

func (c *checker) older() error {
	if err := c.some(1); err != nil {
		return err
	}
	p, err := c.page("")
	if err != nil {
		return err
	}
	for range olderPages {
		if err := descending(p.Items); err != nil || len(p.Items) == 0 {
			return fmt.Errorf("%s: %d items: %w", p.answer.asked, len(p.Items), err)
		}
		last := p.Items[len(p.Items)-1].DataFeed.Position
		if p.NextURL == "" {
			if last != 1 {
				return fmt.Errorf("%s has no next_url, and ends with position %d", p.answer.asked, last)
			}
			return nil
		}
		u, err := url.Parse(p.NextURL)
		if err != nil {
			return err
		}
		if p, err = c.page("?" + u.RawQuery); err != nil {
			return err
		}
		if len(p.Items) == 0 || p.Items[0].DataFeed.Position != last-1 {
			return fmt.Errorf("next_url %s does not continue before position %d", u, last)
		}
	}
	return nil
}

// someID returns the id of the entity with the most versions.
func (c *checker) someID() string {
	if len(c.walked) == 0 {
		return ""
	}
	return slices.MaxFunc(c.walked, func(a, b item) int { return int(a.DataFeed.Version - b.DataFeed.Version) }).uuid()
}

func (c *checker) status(want int, rest string, headers ...string) error {
	a, err := c.get(rest, headers...)
	if err == nil {
		err = a.want(want)
	}
	return err
}

func (c *checker) parameters() error {
	for _, rest := range []string{"?after=0&before=1-000000000000", "?after=0&after=0", "?before=1-000000000000&limit=5", "?limit=5&limit=5"} {
		if err := c.status(http.StatusBadRequest, rest); err != nil {
			return err
		}
	}
	return c.status(http.StatusOK, "?after=0&limit=5&unknown=1&history=0")
}

func (c *checker) limits() error {
	for _, rest := range []string{
		"?after=0&limit=0", "?after=0&limit=1001", "?after=0&limit=-1", "?after=0&limit=", "?after=0&limit=ten", "?after=", "?after=1",
		"?after=-1", "?after=1-xyz", "?after=1-ABCDEF012345", "?after=01-abcdef012345", "?after=99999999999999999999-abcdef012345", "?before=zero",
	} {
		if err := c.status(http.StatusBadRequest, rest); err != nil {
			return err
		}
	}
	return c.status(http.StatusOK, "?after=0&limit=1000")
}
