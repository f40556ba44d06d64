package check

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

func (c *checker) entity() error {
	id := c.someID()
	if id == "" {
		return c.some(1)
	}
	a, err := c.get("/"+id, "Accept", "application/json")
	if err == nil {
		err = a.want(http.StatusOK)
	}
	if err != nil {
		return err
	}
	var versions []struct {
		Position int64
		Version  int64
		Updated  string
		Entity   json.RawMessage
	}
	if err := json.Unmarshal(a.body, &versions); err != nil {
		return fmt.Errorf("%s: %w", a.asked, err)
	}
	var want []item
	for _, i := range slices.Backward(c.walked) {
		if i.uuid() == id {
			want = append(want, i)
		}
	}
	if len(versions) < min(len(want), 1000) {
		return fmt.Errorf("%s has %d versions, the feed %d", a.asked, len(versions), len(want))
	}
	for i, v := range versions {
		if i > 0 && v.Version != versions[i-1].Version-1 {
			return fmt.Errorf("%s: version %d comes after %d", a.asked, v.Version, versions[i-1].Version)
		}
		at := slices.IndexFunc(want, func(w item) bool { return w.DataFeed.Version == v.Version })
		if at >= 0 && (want[at].DataFeed.Position != v.Position || want[at].Updated != v.Updated) {
			return fmt.Errorf("%s: version %d is not that of the feed", a.asked, v.Version)
		}
	}
	return c.status(http.StatusNotFound, "/00000000-0000-4000-8000-00000000fade")
}

func (c *checker) head() error {
	for _, rest := range []string{"?after=0&limit=1", ".atom?after=0&limit=1", "?after=nonsense"} {
		get, err := c.get(rest)
		if err != nil {
			return err
		}
		head, err := c.ask(http.MethodHead, rest)
		if err != nil {
			return err
		}
		if head.status != get.status || len(head.body) > 0 {
			return fmt.Errorf("HEAD of %s answers %d with %d bytes, GET %d", get.asked, head.status, len(head.body), get.status)
		}
		for _, name := range []string{"Content-Type", "ETag", "Cache-Control", "Vary", "Link"} {
			if g, h := get.header.Values(name), head.header.Values(name); !slices.Equal(g, h) {
				return fmt.Errorf("HEAD of %s has %s %q, GET %q", get.asked, name, h, g)
			}
		}
	}
	return nil
}

func (c *checker) document() error {
	for _, rest := range []string{"", after("0", 10)} {
		p, err := c.page(rest)
		if err != nil {
			return err
		}
		if p.Version != "https://jsonfeed.org/version/1.1" || p.Title == "" || p.FeedURL == "" || p.Items == nil || p.DataFeed.About == "" {
			return fmt.Errorf("%s lacks version, title, feed_url, items or about", p.answer.asked)
		}
		if got := p.answer.mediaType(); got != "application/feed+json" {
			return fmt.Errorf("%s is %s", p.answer.asked, got)
		}
		for _, rel := range []string{"self", "alternate", "current"} {
			if p.answer.link(rel) == "" {
				return fmt.Errorf("%s has no link %s", p.answer.asked, rel)
			}
		}
	}
	return nil
}

// An atomFeed is a document of Atom, as far as it is compared.
type atomFeed struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string   `xml:"http://www.w3.org/2005/Atom id"`
	Page    struct {
		Cursor    string `xml:"cursor,attr"`
		Next      string `xml:"next,attr"`
		Snapshot  string `xml:"snapshot,attr"`
		Compacted string `xml:"compacted,attr"`
	} `xml:"https://datafeed.example/ns page"`
	Archive *struct{} `xml:"http://purl.org/syndication/history/1.0 archive"`
	Entries []struct {
		ID      string    `xml:"http://www.w3.org/2005/Atom id"`
		Updated string    `xml:"http://www.w3.org/2005/Atom updated"`
		Own     atomEntry `xml:"https://datafeed.example/ns entry"`
	} `xml:"http://www.w3.org/2005/Atom entry"`
	Deleted []struct {
		ID  string    `xml:"ref,attr"`
		Own atomEntry `xml:"https://datafeed.example/ns entry"`
	} `xml:"http://purl.org/atompub/tombstones/1.0 deleted-entry"`
}

type atomEntry struct {
	Position   int64 `xml:"position,attr"`
	Version    int64 `xml:"version,attr"`
	First      int64 `xml:"first,attr"`
	Erased     bool  `xml:"erased,attr"`
	Superseded bool  `xml:"superseded,attr"`
}

func (c *checker) atomPage(rest string) (*atomFeed, *answer, error) {
	a, err := c.get(rest, "Accept", "application/atom+xml")
	if err == nil {
		err = a.want(http.StatusOK)
	}
	if err != nil {
		return nil, nil, err
	}
	var f atomFeed
	if err := xml.Unmarshal(a.body, &f); err != nil {
		return nil, nil, fmt.Errorf("%s is no Atom: %w", a.asked, err)
	}
	return &f, a, nil
}

func (c *checker) atom() error {
	for _, rest := range []string{after("0", 100), "?limit=100"} {
		if err := c.sameInAtom(rest); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) sameInAtom(rest string) error {
	var p *page
	var f *atomFeed
	var a *answer
	for range 3 { // an entry may come in between
		var err error
		if f, a, err = c.atomPage(rest); err != nil {
			return err
		}
		if p, err = c.json(rest); err != nil {
			return err
		}
		if f.Page.Cursor == p.DataFeed.Cursor && f.Page.Snapshot == p.DataFeed.Snapshot {
			break
		}
	}
	if f.ID == "" || f.Page.Cursor != p.DataFeed.Cursor || f.Page.Snapshot != p.DataFeed.Snapshot {
		return fmt.Errorf("%s has the id %q and the cursor %q, JSON Feed %s", a.asked, f.ID, f.Page.Cursor+f.Page.Snapshot, p.DataFeed.Cursor+p.DataFeed.Snapshot)
	}
	if f.Page.Compacted != p.DataFeed.Compacted {
		return fmt.Errorf("%s is compacted at %q, JSON Feed at %q", a.asked, f.Page.Compacted, p.DataFeed.Compacted)
	}
	type entry struct {
		id      string
		own     atomEntry
		deleted bool
	}
	var got, want []entry
	for _, e := range f.Entries {
		got = append(got, entry{e.ID, e.Own, false})
	}
	for _, e := range f.Deleted {
		got = append(got, entry{e.ID, e.Own, true})
	}
	for _, i := range p.Items {
		want = append(want, entry{i.ID, atomEntry{i.DataFeed.Position, i.DataFeed.Version, i.DataFeed.First, i.DataFeed.Erased, i.DataFeed.Superseded}, i.DataFeed.Deleted})
	}
	byPosition := func(a, b entry) int { return int(a.own.Position - b.own.Position) }
	slices.SortFunc(got, byPosition)
	slices.SortFunc(want, byPosition)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s has not the same entries as JSON Feed", a.asked)
	}
	return nil
}

func (c *checker) archive() error {
	_, a, err := c.atomPage("")
	if err != nil {
		return err
	}
	link := a.link("prev-archive")
	if link == "" {
		return skipError("the newest page has no archive before it")
	}
	u, err := url.Parse(link)
	if err != nil {
		return err
	}
	f, a, err := c.atomPage(".atom?" + u.RawQuery)
	if err != nil {
		return err
	}
	if f.Archive == nil || len(f.Entries)+len(f.Deleted) != 100 {
		return fmt.Errorf("%s is no archive of 100 entries", a.asked)
	}
	return nil
}

func (c *checker) html() error {
	a, err := c.get("", "Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	if err == nil {
		err = a.want(http.StatusOK)
	}
	if err == nil && a.mediaType() != "text/html" {
		err = fmt.Errorf("a browser gets %s", a.mediaType())
	}
	return err
}

func (c *checker) diverged() error {
	p, err := c.page("?limit=1")
	if err != nil {
		return err
	}
	head := positionOf(p.DataFeed.Cursor)
	wrong := []string{fmt.Sprintf("%d-fedcba987654", head+1_000_000)}
	if head > 0 {
		wrong = append(wrong, fmt.Sprintf("%d-fedcba987654", head), "1-fedcba987654")
	}
	for _, cursor := range wrong {
		a, err := c.get(after(cursor, 100))
		if err == nil {
			err = a.want(http.StatusGone)
		}
		if err != nil {
			return err
		}
		start, err := url.Parse(a.link("start"))
		if err != nil || start.Query().Get("after") != "0" {
			return fmt.Errorf("%s has the link start %q", a.asked, a.link("start"))
		}
		var problem struct{ Type string }
		if err := json.Unmarshal(a.body, &problem); err != nil || !strings.HasSuffix(problem.Type, "/problems/history-diverged") {
			return fmt.Errorf("the type of the problem is %q: %w", problem.Type, err)
		}
		if history := start.Query().Get("history"); history != "" {
			p, err := c.page("?" + start.RawQuery)
			if err != nil {
				return err
			}
			if next, err := url.Parse(p.DataFeed.Next); err != nil || next.Query().Get("history") != history {
				return fmt.Errorf("next of %s does not keep the history", p.answer.asked)
			}
		}
	}
	return nil
}

func (c *checker) negotiation() error {
	for _, x := range []struct {
		rest, accept, want string
	}{
		{"", "*/*", "application/feed+json"}, {"", "application/feed+json", "application/feed+json"}, {"", "application/json", "application/json"},
		{"", "application/atom+xml", "application/atom+xml"}, {"", "application/rss+xml, application/xml", "application/atom+xml"}, {"", "text/xml", "application/atom+xml"},
		{"", "text/html", "text/html"}, {"", "text/html;q=0.1, application/atom+xml", "application/atom+xml"}, {"", "application/feed+json;q=0, application/atom+xml;q=0.5", "application/atom+xml"},
		{".json", "text/html", "application/feed+json"}, {".atom", "application/json", "application/atom+xml"}, {".html", "application/json", "text/html"},
	} {
		a, err := c.get(x.rest+after("0", 1), "Accept", x.accept)
		if err == nil {
			err = a.want(http.StatusOK)
		}
		if err != nil {
			return fmt.Errorf("with Accept: %s: %w", x.accept, err)
		}
		if got := a.mediaType(); got != x.want {
			return fmt.Errorf("%s with Accept: %s is %s, not %s", a.asked, x.accept, got, x.want)
		}
	}
	return nil
}

func (c *checker) codings() error {
	for _, rest := range []string{"", after("0", 100)} {
		plain, err := c.get(rest, "Accept-Encoding", "identity")
		if err != nil {
			return err
		}
		small, err := c.get(rest, "Accept-Encoding", "gzip")
		if err != nil {
			return err
		}
		body, err := small.decoded()
		if err != nil {
			return err
		}
		if plain.header.Get("Content-Encoding") != "" || !bytes.Equal(plain.body, body) && c.Append == nil && !moved(plain.body, body) {
			return fmt.Errorf("%s is another document with gzip", plain.asked)
		}
	}
	return nil
}

// moved reports whether the documents differ by their head, as an entry came in between.
func moved(a, b []byte) bool {
	var one, other page
	return json.Unmarshal(a, &one) == nil && json.Unmarshal(b, &other) == nil && one.DataFeed.Head != nil && other.DataFeed.Head != nil && *one.DataFeed.Head != *other.DataFeed.Head
}

func (c *checker) refusals() error {
	for _, x := range []struct {
		method, rest, accept string
		status               int
	}{
		{http.MethodGet, "?after=nonsense", "*/*", http.StatusBadRequest},
		{http.MethodGet, "/00000000-0000-4000-8000-00000000fade", "*/*", http.StatusNotFound},
		{http.MethodGet, "-there-is-no-such-feed", "*/*", http.StatusNotFound},
		{http.MethodPut, "", "*/*", http.StatusMethodNotAllowed},
		{http.MethodGet, "", "image/png", http.StatusNotAcceptable},
	} {
		a, err := c.ask(x.method, x.rest, "Accept", x.accept)
		if err == nil {
			err = a.want(x.status)
		}
		if err != nil {
			return err
		}
		var problem struct {
			Status        int
			Title, Detail string
		}
		if err := json.NewDecoder(bytes.NewReader(a.body)).Decode(&problem); err != nil && !errors.Is(err, io.EOF) || problem.Status != x.status || problem.Title == "" {
			return fmt.Errorf("%s %s: the problem has the status %d and the title %q", x.method, a.asked, problem.Status, problem.Title)
		}
		if a.mediaType() != "application/problem+json" || a.header.Get("Cache-Control") != "no-store" {
			return fmt.Errorf("%s %s is %s with Cache-Control %q", x.method, a.asked, a.mediaType(), a.header.Get("Cache-Control"))
		}
		if x.status == http.StatusMethodNotAllowed && !strings.Contains(a.header.Get("Allow"), "GET") {
			return fmt.Errorf("405 has Allow %q", a.header.Get("Allow"))
		}
	}
	return nil
}
