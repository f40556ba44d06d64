// Package feed is the wire between a source and its readers: entries, pages, cursors, and their encodings as Atom
// (RFC 4287) and JSON Feed 1.1. It knows nothing of what the entries say.
package feed

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// PageSize is the number of entries of a page when nobody asks for another, and MaxPageSize the most one can ask for.
const (
	PageSize    = 100
	MaxPageSize = 1000
)

// Media types of the representations.
const (
	TypeJSONFeed = "application/feed+json"
	TypeJSON     = "application/json"
	TypeAtom     = "application/atom+xml"
	TypeHTML     = "text/html"
	TypeEvents   = "text/event-stream"
	TypeProblem  = "application/problem+json"
	TypeSchema   = "application/schema+json"
	// TypeCloudEvents is the JSON batch format of CloudEvents 1.0.
	TypeCloudEvents = "application/cloudevents-batch+json"
)

// An Entry is the whole state of one entity at one version, at its place in the feed.
type Entry struct {
	Position int64     // 1, 2, 3 ... in commit order, without gaps
	First    int64     // the position of the first version that is known of the entity; 0: none but this one
	ID       uuid.UUID // the entity's; all its versions share it
	Version  int64     // 1, 2, 3 ... of this entity
	Updated  time.Time // UTC, microseconds; grows strictly with Version
	Deleted  bool      // a tombstone: the entity is gone and Entity is nil
	Erased   bool      // a tombstone of an entity that is erased: no reader takes a later entry of its id
	// Superseded entries have a newer version, and were compacted: Entity is nil, and Deleted false, whatever they were.
	// They say nothing of the entity but that it has another version.
	Superseded bool
	Entity     json.RawMessage // as the source rendered it when it was written
	Cursor     Cursor          // the place right after it; only the source knows it
}

// A Page is a run of entries without gaps, as a reader gets it.
type Page struct {
	Entries  []Entry // oldest first
	Cursor   Cursor  // the place after the last entry: what to ask for next
	Sealed   bool    // final: these bytes never change
	UpToDate bool    // the feed ended with this page when it was made; false on pages that are sealed or of the view Older
	Head     Cursor  // the end of the feed when the page was made; on pages that are neither sealed nor of the view Older
	// Compacted is set on pages with superseded entries: the entries that superseded these lie at or before it.
	Compacted Cursor

	More *SnapshotPlace // of a page of a snapshot: where the next one starts; nil means that it is the last
}

// A SnapshotPlace is where a page of a snapshot starts. The zero SnapshotPlace begins a new snapshot.
type SnapshotPlace struct {
	Head Cursor    // the end of the feed when the first page was made
	From uuid.UUID // the page has entities of higher ids
}

// Latest returns the newest version of each entity on the page, once, in the order of their positions. Nothing is newer
// than an erasure. Superseded entries are left out. A bad entry that comes later is there beside it, as one of that
// version at least. Malformed entries are bad, and those that bad reports, if it is not nil; it is asked only about
// entities that have several entries on the page.
func (p *Page) Latest(bad func(Entry) bool) []Entry {
	newest := make(map[uuid.UUID]int, len(p.Entries)) // indexes
	worst := map[uuid.UUID]int{}                      // the last bad ones
	times, first := make(map[uuid.UUID]int, len(p.Entries)), map[uuid.UUID]int64{}
	for _, e := range p.Entries {
		if times[e.ID]++; times[e.ID] == 1 {
			first[e.ID] = cmp.Or(e.First, e.Position)
		}
	}
	for i, e := range p.Entries {
		if e.Superseded {
			continue
		}
		if e.Malformed() != nil || !e.Erased && bad != nil && times[e.ID] > 1 && bad(e) {
			worst[e.ID] = i
			continue
		}
		j, seen := newest[e.ID]
		if !seen || e.Erased && !p.Entries[j].Erased || e.Erased == p.Entries[j].Erased && e.Version >= p.Entries[j].Version {
			newest[e.ID] = i
		}
	}
	latest := make([]Entry, 0, len(newest))
	for i, e := range p.Entries {
		if times[e.ID] > 1 {
			e.First = first[e.ID]
		}
		good, seen := newest[e.ID]
		last, is := worst[e.ID]
		switch {
		case seen && good == i:
			latest = append(latest, e)
		case is && last == i && (!seen || good < i && !p.Entries[good].Erased):
			if seen {
				e.Version = max(e.Version, p.Entries[good].Version)
			}
			latest = append(latest, e)
		}
	}
	return latest
}

// A Link is a typed link of a document (RFC 8288).
type Link struct {
	Rel  string
	Href string // absolute
	Type string // media type of what it leads to; may be empty
	ETag string // entity tag of what it leads to, as far as its source says it; may be empty
}

// A Description says what a feed is, and turns its entries into words.
type Description struct {
	Name  string // in URLs: "orders"
	Title string // for people: "Edison Cars: orders"
	Text  string // one sentence
	ID    string // an IRI that never changes (RFC 4287 section 4.2.6)
	// Show puts an entry that is no tombstone into words. Nil makes words, HTML and XML of the entity's members;
	// the title is the member title, name or id, or else the entry's id.
	Show func(Entry) (Shown, error)
	// Personal feeds say something of people, who may have it erased: nothing of them stays in a shared cache, and what
	// was read once may be a tombstone the next time.
	Personal bool
	// Schema is the JSON Schema (2020-12) of the entities; nil means that the source declares none.
	Schema json.RawMessage
	// Views are the parts of the feed that the source declares.
	Views []DeclaredView
	// Partial says that this is a view: what is deleted may be outside of it.
	Partial bool
}

// Shown is an entry in words, for feed readers and browsers.
type Shown struct {
	Title string
	HTML  string // safe to embed
	URL   string // the entity's own page, absolute; may be empty
	XML   any    // the entity for encoding/xml, with a namespace of its own
}

// A View is one of the ways to look at a feed.
type View int

// The views.
const (
	Newest   View = iota // the newest entries first, for people and feed readers
	Older                // the same, a page further back
	Replay               // oldest first after a cursor, for those who copy
	Snapshot             // the newest version of each entity, in the order of their ids, for those who begin to copy
)

// A Document is a page with everything that its encodings show. One of a snapshot has no Sealed, UpToDate and Head, and
// its Cursor is the place where the replay after the snapshot begins.
type Document struct {
	Description
	Page
	Author string // "" stands for the title
	Home   string // the source's front page, absolute
	Self   string // this document's URL, absolute
	Next   string // where a replay or snapshot goes on, absolute; set also when nothing lies there yet
	View   View
	Links  []Link // without self
	// Archive marks an archive document (RFC 5005 section 4): entries will neither join nor leave it.
	Archive bool
	// Through is the id through which a page of a snapshot looks for entities, if that is not its last one: the next
	// page goes on after it.
	Through *uuid.UUID
}

// maxWords is how long the title and the HTML of an entry may be, in bytes: readers take pages up to a limit, and need
// the entity rather than its words.
const maxWords = 256 << 10

// Words returns the entry in words, which is no tombstone. One that Show cannot read, or has too many words for, is
// still there for those who copy it.
func (d *Description) Words(e Entry) (shown Shown) {
	if e.Superseded {
		return Shown{Title: "Superseded", HTML: "<p>Superseded by a newer version.</p>"}
	}
	if d.Show == nil {
		return plain(e)
	}
	var err error
	defer func() {
		if recover() != nil || err != nil || len(shown.Title)+len(shown.HTML) > maxWords {
			shown = Shown{Title: fmt.Sprintf("Entry %d", e.Position), HTML: "<p>This entry cannot be put into words.</p>"}
		}
	}()
	shown, err = d.Show(e)
	return shown
}

// NewestFirst tells whether the entries stand in descending order.
func (d *Document) NewestFirst() bool { return d.View == Newest || d.View == Older }

// compacted returns Compacted, or nil if no entry is superseded.
func (d *Document) compacted() *Cursor {
	if !slices.ContainsFunc(d.Entries, func(e Entry) bool { return e.Superseded }) {
		return nil
	}
	return &d.Compacted
}

// tail tells whether the document says where the feed ends: it changes with every entry that is appended.
func (d *Document) tail() bool { return !d.Sealed && d.View != Older && d.View != Snapshot }
