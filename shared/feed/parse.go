package feed

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// ErrPage is wrapped by the error of ParsePage for a body that is not the requested page: it is incomplete, of another
// format, or its positions are not consecutive.
var ErrPage = errors.New("not a page of this feed")

// ErrNoSnapshot is wrapped by the error of ParseSnapshot for a body that is no page of a snapshot: the source does not
// offer snapshots.
var ErrNoSnapshot = errors.New("the source offers no snapshots")

// jsonReplay has the members of a page of a replay or a snapshot that a reader needs.
type jsonReplay[Item any] struct {
	Version  string `json:"version"`
	Datafeed *struct {
		Snapshot  jsontext.Value `json:"snapshot"`
		Next      jsontext.Value `json:"next"`
		Through   string         `json:"through"`
		Cursor    Cursor         `json:"cursor"`
		Sealed    bool           `json:"sealed"`
		UpToDate  *bool          `json:"up_to_date"`
		Head      *Cursor        `json:"head"`
		Compacted *Cursor        `json:"compacted"`
	} `json:"_datafeed"`
	Items []Item `json:"items"`
}

type jsonItem struct {
	ID       string    `json:"id"`
	Modified time.Time `json:"date_modified"`
	Datafeed struct {
		Position   int64          `json:"position"`
		Version    int64          `json:"version"`
		First      int64          `json:"first"`
		Deleted    bool           `json:"deleted"`
		Erased     bool           `json:"erased"`
		Superseded bool           `json:"superseded"`
		Entity     jsontext.Value `json:"entity"`
	} `json:"_datafeed"`
}

// asWritten accepts every entity that the log accepts, so that one entity does not fail its page.
var asWritten = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// ParsePage parses a replay page that starts at after. It checks that the page is complete: positions are consecutive
// from after on, and the page's cursor is that of its last entry. An item that cannot be read, except for its position,
// becomes an entry that is [Entry.Malformed], or an erasure if it says so and whose it is. ParsePage does not keep body.
// All errors wrap ErrPage.
func ParsePage(body []byte, after Cursor) (*Page, error) {
	return parseBody(body,
		func(doc *jsonReplay[jsonItem]) (*Page, error) { return doc.page(after, (*jsonItem).entry) },
		func(doc *jsonReplay[jsontext.Value]) (*Page, error) { return doc.page(after, parseEntry) })
}

// ParseSnapshot parses the page of a snapshot that starts at a place. It checks that the page is of that snapshot, that
// the ids ascend from there, and that the next page goes on after the last of them, or as far further on as the page
// says. The entries of the page are in the order of their positions. Malformed items are as with ParsePage. The error
// wraps ErrPage, or ErrNoSnapshot if the body does not say of which snapshot it is.
func ParseSnapshot(body []byte, at SnapshotPlace) (*Page, error) {
	return parseBody(body,
		func(doc *jsonReplay[jsonItem]) (*Page, error) { return doc.snapshot(at, (*jsonItem).entry) },
		func(doc *jsonReplay[jsontext.Value]) (*Page, error) { return doc.snapshot(at, parseEntry) })
}

// parseBody parses a body as a whole or, if that fails, item by item, which takes longer.
func parseBody(body []byte, whole func(*jsonReplay[jsonItem]) (*Page, error), single func(*jsonReplay[jsontext.Value]) (*Page, error)) (*Page, error) {
	var doc jsonReplay[jsonItem]
	if json.Unmarshal(body, &doc, asWritten) == nil {
		if page, err := whole(&doc); err == nil {
			return page, nil
		}
	}
	var items jsonReplay[jsontext.Value]
	body = flat(body)
	if err := json.Unmarshal(body, &items, asWritten); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPage, undecodable(err))
	}
	return single(&items)
}

func parseEntry(item *jsontext.Value, position int64) (Entry, error) {
	return parseItem(*item, position), nil
}

// maxDepth is the depth to which a page is read. The decoder's limit is 10,000, and malformed items are wrapped in
// arrays.
const maxDepth = 9_990

// tooDeep replaces values that are nested deeper. An item that contains it is malformed.
const tooDeep = `"nested too deep: 6b1f9c52-0e6c-4d0c-9d35-4e5f7f8d2a10"`

// flat returns the body with tooDeep in place of each array or object below maxDepth, which would fail the whole page;
// without any, it returns the body itself.
func flat(body []byte) []byte {
	var out []byte
	depth, kept, quoted := 0, 0, false // out is body[:kept] with the replacements
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			if depth++; depth == maxDepth+1 {
				out, kept = append(append(out, body[kept:i]...), tooDeep...), len(body)
			}
		case c == '}', c == ']':
			if depth--; depth == maxDepth {
				kept = i + 1
			}
		}
	}
	if out == nil {
		return body
	}
	return append(out, body[kept:]...)
}

// undecodable returns a decoding error without values, and without names of entities' members, so that it may be
// logged.
func undecodable(err error) error {
	if wrong, ok := errors.AsType[*json.SemanticError](err); ok { // the path has only the protocol's names
		return &json.SemanticError{ByteOffset: wrong.ByteOffset, JSONPointer: wrong.JSONPointer, JSONKind: wrong.JSONKind, GoType: wrong.GoType}
	}
	if wrong, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return &jsontext.SyntacticError{ByteOffset: wrong.ByteOffset, Err: wrong.Err}
	}
	return errors.New("no JSON")
}

// ParseHead returns the end of the feed from a page of the newest entries.
func ParseHead(body []byte) (head Cursor, err error) {
	var doc jsonReplay[jsontext.Value]
	if err := json.Unmarshal(flat(body), &doc, asWritten); err != nil {
		return head, fmt.Errorf("%w: %w", ErrPage, undecodable(err))
	}
	if doc.Version != jsonFeedVersion || doc.Datafeed == nil || doc.Datafeed.Head == nil {
		return head, fmt.Errorf("%w: it does not say where the feed ends", ErrPage)
	}
	return *doc.Datafeed.Head, nil
}

// page reads each item by entry, which gets the expected position.
func (doc *jsonReplay[Item]) page(after Cursor, entry func(*Item, int64) (Entry, error)) (*Page, error) {
	if doc.Version != jsonFeedVersion || doc.Datafeed == nil {
		return nil, fmt.Errorf("%w: expected JSON Feed 1.1 with the extension _datafeed", ErrPage)
	}
	p := &Page{Cursor: doc.Datafeed.Cursor, Sealed: doc.Datafeed.Sealed, Entries: make([]Entry, 0, len(doc.Items))}
	if doc.Datafeed.Head != nil && doc.Datafeed.UpToDate != nil {
		p.Head, p.UpToDate = *doc.Datafeed.Head, *doc.Datafeed.UpToDate
	} else if !p.Sealed {
		return nil, fmt.Errorf("%w: it is not sealed and does not say where the feed ends", ErrPage)
	}
	position := after.Position
	for i := range doc.Items {
		position++
		e, err := entry(&doc.Items[i], position)
		if err != nil {
			return nil, fmt.Errorf("%w: the entry at position %d: %w", ErrPage, position, err)
		}
		if e.Position != position {
			return nil, fmt.Errorf("%w: expected position %d, got %d", ErrPage, position, e.Position)
		}
		e.First = 0
		p.Entries = append(p.Entries, e)
	}
	if p.Cursor.Position != position || len(p.Entries) == 0 && p.Cursor != after {
		return nil, fmt.Errorf("%w: it ends at cursor %s, its last entry is at position %d", ErrPage, p.Cursor, position)
	}
	if len(p.Entries) == 0 && !p.UpToDate {
		return nil, fmt.Errorf("%w: it is empty and does not end the feed", ErrPage)
	}
	if !p.Sealed && (p.Head.Position < p.Cursor.Position || p.UpToDate != (p.Head == p.Cursor)) {
		return nil, fmt.Errorf("%w: it ends at cursor %s, up to date: %t, while the feed ends at %s", ErrPage, p.Cursor, p.UpToDate, p.Head)
	}
	return p, doc.compacted(p)
}

// compacted sets the page's Compacted, or returns an error if a superseded entry needs another.
func (doc *jsonReplay[Item]) compacted(p *Page) error {
	if doc.Datafeed.Compacted != nil {
		p.Compacted = *doc.Datafeed.Compacted
	}
	for _, e := range p.Entries {
		if e.Superseded && e.Position >= p.Compacted.Position {
			return fmt.Errorf("%w: the entry at position %d is superseded, and the feed compacted up to %s", ErrPage, e.Position, p.Compacted)
		}
	}
	return nil
}

// snapshot reads each item by entry, as page does.
func (doc *jsonReplay[Item]) snapshot(at SnapshotPlace, entry func(*Item, int64) (Entry, error)) (*Page, error) {
	if doc.Version != jsonFeedVersion {
		return nil, fmt.Errorf("%w: expected JSON Feed 1.1", ErrPage)
	}
	if doc.Datafeed == nil || len(doc.Datafeed.Snapshot) == 0 {
		return nil, ErrNoSnapshot
	}
	var head Cursor
	if err := json.Unmarshal(doc.Datafeed.Snapshot, &head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPage, undecodable(err))
	}
	if !at.Head.IsStart() && head != at.Head {
		return nil, fmt.Errorf("%w: it is of the snapshot at %s, not at %s", ErrPage, head, at.Head)
	}
	p := &Page{Cursor: head, Entries: make([]Entry, 0, len(doc.Items))}
	last, named := at.From, true
	for i := range doc.Items {
		e, err := entry(&doc.Items[i], max(head.Position, 1))
		if err != nil {
			return nil, fmt.Errorf("%w: item %d: %w", ErrPage, i+1, err)
		}
		if e.Position > head.Position {
			return nil, fmt.Errorf("%w: item %d has position %d, beyond the snapshot at %s", ErrPage, i+1, e.Position, head)
		}
		wrong := e.First < 1 || e.First > e.Position
		if wrong && e.Position > 0 && (e.Erased || e.Malformed() != nil) {
			e.First, wrong = e.Position, false
		}
		if wrong {
			return nil, fmt.Errorf("%w: item %d has position %d, and %d as that of its first version", ErrPage, i+1, e.Position, e.First)
		}
		if named = !e.Nameless(); named {
			if bytes.Compare(e.ID[:], last[:]) <= 0 {
				return nil, fmt.Errorf("%w: the entity %s comes after %s", ErrPage, e.ID, last)
			}
			last = e.ID
		}
		p.Entries = append(p.Entries, e)
	}
	if err := doc.compacted(p); err != nil {
		return nil, err
	}
	slices.SortStableFunc(p.Entries, func(a, b Entry) int { return cmp.Compare(a.Position, b.Position) })
	var link string
	next, err := new(url.URL), json.Unmarshal(doc.Datafeed.Next, &link)
	if err == nil {
		next, err = url.Parse(link)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its link to the next page is no URL", ErrPage)
	}
	query := next.Query()
	if query.Get("after") == head.String() && !query.Has("snapshot") {
		return p, nil
	}
	from, err := uuid.Parse(query.Get("from"))
	order := bytes.Compare(from[:], last[:])
	passed := order > 0 && (!named || doc.Datafeed.Through == from.String()) // entities that are newer than the snapshot
	if err != nil || query.Get("snapshot") != head.String() || head.IsStart() || from == at.From || order != 0 && !passed {
		return nil, fmt.Errorf("%w: its next page goes on neither after the entity %s nor as the replay after %s", ErrPage, last, head)
	}
	p.More = &SnapshotPlace{head, from}
	return p, nil
}

func (item *jsonItem) entry(int64) (Entry, error) {
	e := Entry{
		Position: item.Datafeed.Position, First: item.Datafeed.First, Version: item.Datafeed.Version, Updated: item.Modified,
		Deleted: item.Datafeed.Deleted, Erased: item.Datafeed.Erased, Superseded: item.Datafeed.Superseded,
		Entity: []byte(item.Datafeed.Entity),
	}
	return e, e.identify(item.ID)
}

var errID = errors.New("its id is no UUID")

// identify sets the ID, or returns an error.
func (e *Entry) identify(id string) (err error) {
	if (e.Deleted || e.Superseded) && string(e.Entity) == "null" {
		e.Entity = nil
	}
	e.ID, err = uuid.Parse(strings.TrimPrefix(id, "urn:uuid:"))
	switch {
	case err != nil:
		return errID
	case e.Version < 1:
		return errors.New("its version is no whole number from 1 on")
	case e.Deleted && e.Entity != nil:
		return errors.New("it is deleted and has an entity")
	case e.Superseded && (e.Deleted || e.Entity != nil):
		return errors.New("it is superseded, and deleted or has an entity")
	case !e.Deleted && !e.Superseded && !isObject(e.Entity):
		return errors.New("its entity is no object")
	case e.Erased && !e.Deleted:
		return errors.New("it is erased and not deleted")
	}
	return nil
}

func isObject(value []byte) bool { return bytes.HasPrefix(value, []byte("{")) }

// Malformed returns what is wrong with the item that became this entry, without quoting it, or nil if it could be read.
// A malformed entry has a Position, its Version or 0, and its ID, or one derived from its text. Its Entity is the item
// as the only element of an array, which is never a valid entity.
func (e *Entry) Malformed() error {
	if !bytes.HasPrefix(e.Entity, []byte("[")) {
		return nil
	}
	if _, _, err := readItem(jsontext.Value(e.Entity[1 : len(e.Entity)-1])); err != nil {
		return err
	}
	return errors.New("it could not be read")
}

// Nameless reports whether the entry is malformed and does not say whose it is.
func (e *Entry) Nameless() bool {
	return e.Malformed() != nil && e.ID == nameless(e.Entity[1:len(e.Entity)-1])
}

// nameless returns the id of an item without a readable one.
func nameless(item []byte) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceURL, item) }

// parseItem parses an item with the expected position, which an item without a position gets.
func parseItem(item jsontext.Value, position int64) Entry {
	e, placed, err := readItem(item)
	if !placed {
		e.Position = position
	}
	if err != nil {
		e.Version, e.Deleted, e.Erased, e.Superseded = max(e.Version, 0), false, false, false
		e.Entity = append(append([]byte("["), item...), ']')
	}
	return e
}

// readItem reads an item member by member. placed reports whether it has a position.
func readItem(text jsontext.Value) (e Entry, placed bool, err error) {
	var item struct {
		ID       jsontext.Value `json:"id"`
		Modified jsontext.Value `json:"date_modified"`
		Datafeed jsontext.Value `json:"_datafeed"`
	}
	var extension struct {
		Position   jsontext.Value `json:"position"`
		Version    jsontext.Value `json:"version"`
		First      jsontext.Value `json:"first"`
		Deleted    jsontext.Value `json:"deleted"`
		Erased     jsontext.Value `json:"erased"`
		Superseded jsontext.Value `json:"superseded"`
		Entity     jsontext.Value `json:"entity"`
	}
	read := func(from jsontext.Value, to any, wrong string) (is bool) {
		if len(from) > 0 && json.Unmarshal(from, to, asWritten) != nil {
			err = cmp.Or(err, errors.New(wrong))
			return false
		}
		return len(from) > 0 && from.Kind() != 'n'
	}
	var id string
	read(text, &item, "it is no object")
	read(item.Datafeed, &extension, "its _datafeed is no object")
	placed = read(extension.Position, &e.Position, "its position is no whole number")
	read(extension.Version, &e.Version, "its version is no whole number from 1 on")
	read(extension.First, &e.First, "its first is no whole number")
	read(item.ID, &id, errID.Error())
	read(item.Modified, &e.Updated, "its date_modified is no time of RFC 3339")
	read(extension.Deleted, &e.Deleted, "its deleted is neither true nor false")
	read(extension.Erased, &e.Erased, "its erased is neither true nor false")
	read(extension.Superseded, &e.Superseded, "its superseded is neither true nor false")
	if !placed {
		err = cmp.Or(err, errors.New("its position is no whole number"))
	}
	if bytes.Contains(text, []byte(tooDeep)) {
		err = cmp.Or(err, errors.New("it is nested too deep"))
	}
	e.Entity = []byte(extension.Entity)
	wrong := e.identify(id)
	if errors.Is(wrong, errID) {
		e.ID = nameless(text)
	} else if e.Erased && (e.Deleted || !isObject(e.Entity)) { // whatever else is wrong, nothing may be kept of the entity
		e.Version, e.Deleted, e.Superseded, e.Entity = max(e.Version, 1), true, false, nil
		return e, placed, nil
	}
	return e, placed, cmp.Or(err, wrong)
}
