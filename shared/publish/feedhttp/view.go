package feedhttp

import (
	"fmt"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// viewsPath is between the name of a feed and that of a view of it.
const viewsPath = "/views/"

// viewOf returns a view of a feed, which is served like a feed of its own. Its words are made of what it shows alone.
func viewOf(d feed.Description, part feed.DeclaredView) served {
	if !part.Valid() {
		panic(fmt.Sprintf("feedhttp: the view %q of feed %s needs fields, and a name of lower-case letters, digits, - and _", part.Name, d.Name))
	}
	of := served{d, d.Name, &part}
	of.Name, of.ID = d.Name+viewsPath+part.Name, d.ID+viewsPath+part.Name
	of.Title, of.Text = d.Title+", "+part.Name, part.Text
	of.Show, of.Views, of.Partial, of.Schema = nil, nil, true, part.SchemaOf(d.Schema)
	return of
}

// add adds a feed or a view.
func (d *described) add(s served, author string) {
	d.served[s.Name], d.rendering[s.Name] = s, rendering(s, author)
}

// seen returns the entries as the feed or view shows them.
func (s *served) seen(entries []feed.Entry) []feed.Entry {
	if s.part == nil {
		return entries
	}
	list := make([]feed.Entry, len(entries))
	for i, e := range entries {
		list[i] = s.part.Of(e)
	}
	return list
}
