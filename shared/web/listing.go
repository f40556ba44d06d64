package web

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A Listing is the part of a list that a request asks for, newest first:
//
//	q=ID        the rows with the id, or with one that begins with these 8 or more hex digits, or that [Short] shows as these 8
//	before=KEY  the rows older than the one with the key
//	after=KEY   the rows newer than that
//	limit=N     at most so many rows
//
// It collects the conditions of the query that reads them. The key is what the rows are sorted by: one or more columns
// that are not null, and together unique. No row is twice on two pages, or on none, whatever is inserted in between.
type Listing struct {
	Q      string // as it was asked for; "" is all
	Number int64  // that Q is, in a list whose key is a number; else 0
	Limit  int

	path        string
	query       url.Values
	first, last uuid.UUID // what Q can begin
	short       string    // what Q can be the short form of, or ""
	key         []any     // of the row beside the page; none on the first page
	newer       bool
	where       []string
	args        []any
}

// NewListing reads the query of a request. Without a limit it is length, and at most most. The key has a pointer for
// each column: to an int64, or to a value that reads itself from text, such as a [time.Time].
func NewListing(r *http.Request, length, most int64, key ...any) (*Listing, error) {
	l := &Listing{path: r.URL.Path, query: r.URL.Query()}
	for _, name := range []string{"q", "before", "after", "limit"} {
		if len(l.query[name]) > 1 {
			return nil, Errorf(http.StatusBadRequest, "The parameter %s may be given only once.", name)
		}
	}
	if l.query.Get("limit") != "" {
		length = most
	}
	limit, err := QueryInt(l.query, "limit", length)
	if err != nil {
		return nil, err
	}
	l.Limit = int(limit)
	before, after := l.query.Get("before"), l.query.Get("after")
	name, text := "before", before
	if after != "" {
		if before != "" {
			return nil, Errorf(http.StatusBadRequest, "The parameters before and after exclude each other.")
		}
		name, text, l.newer = "after", after, true
	}
	if text != "" {
		if !readKey(text, key) {
			return nil, Errorf(http.StatusBadRequest, "The parameter %s takes what the links to other pages say.", name)
		}
		l.key = key
	}
	_, numbered := key[0].(*int64)
	return l, l.readQ(numbered)
}

func readKey(text string, key []any) bool {
	parts := strings.Split(text, ",")
	if len(parts) != len(key) {
		return false
	}
	for i, into := range key {
		var err error
		switch into := into.(type) {
		case *int64:
			*into, err = strconv.ParseInt(parts[i], 10, 64)
			if *into < 1 {
				return false
			}
		case encoding.TextUnmarshaler:
			err = into.UnmarshalText([]byte(parts[i]))
		}
		if err != nil {
			return false
		}
	}
	return true
}

func (l *Listing) readQ(numbered bool) error {
	l.Q = strings.ToLower(strings.TrimSpace(l.query.Get("q")))
	if l.Q == "" {
		return nil
	}
	if n, err := strconv.ParseInt(l.Q, 10, 64); numbered && err == nil && n > 0 && len(l.Q) < 8 {
		l.Number = n
		return nil
	}
	digits := strings.ReplaceAll(l.Q, "-", "")
	if n := len(digits); n >= 8 && n <= 32 {
		var err error
		if l.first, err = uuid.Parse(digits + strings.Repeat("0", 32-n)); err == nil {
			if n == 8 {
				l.short = digits
			}
			l.last, err = uuid.Parse(digits + strings.Repeat("f", 32-n))
			if err == nil {
				return nil
			}
		}
	}
	takes := "an id, its first 8 or more hex digits, or its last 8"
	if numbered {
		takes = "a number of up to 7 digits, an id, its first 8 or more hex digits, or its last 8"
	}
	return Errorf(http.StatusBadRequest, "The parameter q takes %s.", takes)
}

// Where adds a condition. Its question marks stand for the arguments.
func (l *Listing) Where(condition string, args ...any) {
	for _, arg := range args {
		l.args = append(l.args, arg)
		condition = strings.Replace(condition, "?", "$"+strconv.Itoa(len(l.args)), 1)
	}
	l.where = append(l.where, condition)
}

// maxFound is how many rows the beginning of an id finds in a column: ids that begin with a time share it, if they are
// made in the same minute.
const maxFound = 10_000

// Find adds the condition of Q, if it is an id: one of the columns, each with an index, has it. Those of the columns that
// pages show in the short form also have an index on right(column::text, 8).
func (l *Listing) Find(table, primary string, shown []string, others ...string) {
	if l.Q == "" || l.Number > 0 {
		return
	}
	var found []string
	var args []any
	for _, column := range slices.Concat(shown, others) {
		if l.first == l.last {
			found = append(found, fmt.Sprintf(`select %s from %s where %s = ?`, primary, table, column))
			args = append(args, l.first)
			continue
		}
		found = append(found, fmt.Sprintf(`(select %s from %s where %s between ? and ? order by %[3]s limit ?)`, primary, table, column))
		args = append(args, l.first, l.last, maxFound)
	}
	if l.short != "" {
		for _, column := range shown {
			found = append(found, fmt.Sprintf(`select %s from %s where right(%s::text, 8) = ?`, primary, table, column))
			args = append(args, l.short)
		}
	}
	l.Where(primary+" in ("+strings.Join(found, " union all ")+")", args...)
}

// SQL returns the end of the query, sorted by the columns of the key, and the arguments.
func (l *Listing) SQL(columns ...string) (string, []any) {
	way, than := " desc", " < "
	if l.newer {
		way, than = "", " > "
	}
	if l.key != nil {
		l.Where("("+strings.Join(columns, ", ")+")"+than+"("+strings.Repeat("?, ", len(columns)-1)+"?)", l.key...)
	}
	end := ""
	if len(l.where) > 0 {
		end = " where " + strings.Join(l.where, " and ")
	}
	return end + " order by " + strings.Join(columns, way+", ") + way + " limit " + strconv.Itoa(l.Limit+1), l.args
}

// url returns the address of the list with the same filter, without a place, and with these parameters.
func (l *Listing) url(set ...string) string {
	query := url.Values{}
	for name, values := range l.query {
		if values[0] != "" && name != "before" && name != "after" {
			query.Set(name, values[0])
		}
	}
	for i := 0; i < len(set); i += 2 {
		query.Set(set[i], set[i+1])
	}
	if len(query) == 0 {
		return l.path
	}
	return l.path + "?" + query.Encode()
}

// A List is a page of a list. As JSON it is the array of its items.
type List[T any] struct {
	Items  []T
	Q      string
	Path   string // of the list, without parameters
	Newest string // address of the first page; "": this is it
	Newer  string // address of the page before this one, or ""
	Older  string // address of the page after this one, or ""
}

// NewList returns the page of the rows that the listing's query returned. The key function returns a row's values of
// the columns that the list is sorted by.
func NewList[T any](l *Listing, rows []T, key func(T) []any) List[T] {
	more := len(rows) > l.Limit
	if more {
		rows = rows[:l.Limit]
	}
	if l.newer {
		slices.Reverse(rows)
	}
	list := List[T]{Items: rows, Q: l.Q, Path: l.path}
	if l.key != nil && (!l.newer || more || len(rows) == 0) {
		list.Newest = l.url()
	}
	if len(rows) == 0 {
		return list
	}
	if more && l.newer || l.key != nil && !l.newer {
		list.Newer = l.url("after", keyText(key(rows[0])))
	}
	if more || l.newer {
		list.Older = l.url("before", keyText(key(rows[len(rows)-1])))
	}
	return list
}

func keyText(key []any) string {
	parts := make([]string, len(key))
	for i, value := range key {
		parts[i] = fmt.Sprint(value)
		if t, ok := value.(time.Time); ok {
			parts[i] = t.UTC().Format(time.RFC3339Nano)
		}
	}
	return strings.Join(parts, ",")
}

// MarshalJSON returns the array of the items.
func (l List[T]) MarshalJSON() ([]byte, error) { return json.Marshal(append([]T{}, l.Items...)) }

// Links returns the value of the header field Link (RFC 8288), or "" if there are no other pages.
func (l List[T]) Links() string {
	var links []string
	for _, to := range []struct{ rel, url string }{{"next", l.Older}, {"prev", l.Newer}} {
		if to.url != "" {
			links = append(links, "<"+to.url+`>; rel="`+to.rel+`"`)
		}
	}
	return strings.Join(links, ", ")
}
