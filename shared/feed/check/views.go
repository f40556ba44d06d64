package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// A listedFeed is a feed in the list of feeds.
type listedFeed struct {
	Feed, Title, URL, Head string
	Entries                int64
	Schema                 *string
	Views                  []listedView
}

type listedView struct {
	View, URL string
	Fields    []string
	Where     map[string][]string
	Schema    *string
}

// name returns the names of the feed and, if it is one, of the view, and the URL of the list of feeds.
func (c *checker) name() (feed, view, list string) {
	at := strings.LastIndex(c.feed, "/")
	if i := strings.LastIndex(c.feed[:at], "/views"); i >= 0 && i+len("/views") == at {
		view, at = c.feed[at+1:], strings.LastIndex(c.feed[:i], "/")
		return c.feed[at+1 : i], view, c.feed[:at]
	}
	return c.feed[at+1:], "", c.feed[:at]
}

// listed returns the feed, or the feed of the view, as the list of feeds has it.
func (c *checker) listed() (*listedFeed, error) {
	name, _, list := c.name()
	a, err := c.get(list, "Accept", "application/json")
	if err == nil {
		err = a.want(http.StatusOK)
	}
	if err != nil {
		return nil, err
	}
	var feeds []listedFeed
	if err := json.Unmarshal(a.body, &feeds); err != nil {
		return nil, fmt.Errorf("%s: %w", a.asked, err)
	}
	for _, f := range feeds {
		if f.Feed == name {
			return &f, nil
		}
	}
	return nil, fmt.Errorf("%s does not list %s", a.asked, name)
}

func (c *checker) list() error {
	p, err := c.page("?limit=1")
	if err != nil {
		return err
	}
	f, err := c.listed()
	if err != nil {
		return err
	}
	if f.Title == "" || f.URL == "" || positionOf(f.Head) != f.Entries || f.Entries < positionOf(p.DataFeed.Cursor) {
		return fmt.Errorf("the list of feeds says %+v of the feed, whose head is %s", f, p.DataFeed.Cursor)
	}
	if _, view, _ := c.name(); view != "" && !slices.ContainsFunc(f.Views, func(v listedView) bool { return v.View == view }) {
		return fmt.Errorf("the list of feeds lacks the view %s of %s", view, f.Feed)
	}
	return nil
}

func (c *checker) views() error {
	if err := c.some(0); err != nil {
		return err
	}
	f, err := c.listed()
	if err != nil {
		return err
	}
	_, own, _ := c.name()
	found := false
	for _, v := range f.Views {
		switch {
		case own == v.View:
			err = c.membersOf(v)
		case own == "":
			err = c.view(v)
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("the view %s: %w", v.View, err)
		}
		found = true
	}
	if !found {
		return skipError("the feed declares no view")
	}
	return nil
}

// membersOf looks whether the view that was walked has members that are not its own.
func (c *checker) membersOf(v listedView) error {
	for _, i := range c.walked {
		members, err := membersOf(i)
		if err != nil {
			return err
		}
		for name := range members {
			if !slices.Contains(v.Fields, name) {
				return fmt.Errorf("position %d has the member %s", i.DataFeed.Position, name)
			}
		}
	}
	return nil
}

func membersOf(i item) (members map[string]json.RawMessage, err error) {
	if i.DataFeed.Entity != nil {
		err = json.Unmarshal(i.DataFeed.Entity, &members)
	}
	return members, err
}

// view compares a view with the feed that was walked.
func (c *checker) view(v listedView) error {
	for cursor := "0"; ; {
		p, err := c.page("/views/" + v.View + after(cursor, walkLimit))
		if err != nil {
			return err
		}
		for _, link := range []string{p.FeedURL, p.DataFeed.Next, p.answer.link("current"), p.answer.link("alternate")} {
			if !strings.Contains(link, "/views/"+v.View) {
				return fmt.Errorf("%s has the link %s, which leaves the view", p.answer.asked, link)
			}
		}
		for _, got := range p.Items {
			at := int(got.DataFeed.Position) - 1
			if at >= len(c.walked) || at < 0 {
				return nil
			}
			if err := v.same(got, c.walked[at]); err != nil {
				return fmt.Errorf("position %d %w", at+1, err)
			}
		}
		if *p.DataFeed.UpToDate || len(p.Items) == 0 {
			return nil
		}
		cursor = p.DataFeed.Cursor
	}
}

// same returns an error unless got is what the view has of an item of the feed.
func (v *listedView) same(got, whole item) error {
	g, w := got.DataFeed, whole.DataFeed
	if got.ID != whole.ID || got.Updated != whole.Updated || g.Version != w.Version || g.Superseded != w.Superseded || g.Erased != w.Erased {
		return fmt.Errorf("is version %d of %s, and in the feed version %d of %s, or it is not erased or superseded as that", g.Version, got.ID, w.Version, whole.ID)
	}
	members, err := membersOf(whole)
	if err != nil {
		return err
	}
	outside := w.Deleted
	for name, values := range v.Where {
		var text string
		if json.Unmarshal(members[name], &text) != nil {
			text = string(members[name])
		}
		outside = outside || !w.Superseded && !slices.Contains(values, text)
	}
	if g.Deleted != outside || outside && g.Entity != nil {
		return fmt.Errorf("is deleted: %t, and outside of the view: %t", g.Deleted, outside)
	}
	shown, err := membersOf(got)
	if err != nil {
		return err
	}
	for name := range members {
		if !slices.Contains(v.Fields, name) {
			delete(members, name)
		}
	}
	if g.Deleted || g.Superseded {
		return nil
	}
	one, _ := json.Marshal(members)
	other, _ := json.Marshal(shown)
	if !bytes.Equal(one, other) {
		return fmt.Errorf("has other members than %v as the feed has them", v.Fields)
	}
	return nil
}
