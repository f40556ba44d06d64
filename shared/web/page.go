package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"time"
)

// HTMLType is the Content-Type of a page.
const HTMLType = "text/html; charset=utf-8"

//go:embed layout.html list.html problem.html
var pages embed.FS

var problemPage = Template(pages, "problem.html")

// A Page is what the layout shows around the content of a page. The content's template finds its data at .Data.
type Page struct {
	Brand      string // whose service it is, e.g. "Edison"; may be empty
	Service    string // name of the service, e.g. "Sales"
	Title      string
	Nav        []Link
	Alternates []Link // <link rel="alternate">: Text is the title, Type the media type
	Freshness  []Freshness
	Follow     int    // seconds after which a script fetches the page again and changes what differs, and so on; 0 is never
	Refresh    int    // seconds after which a browser without scripts loads the page again; 0 is never
	Operator   string // as whom the browser is logged in; Render fills it in
	Data       any
}

// Link is a link in the navigation or the head of a page.
type Link struct {
	Text      string
	URL       string
	Type      string // media type; head only
	Current   bool   // the page itself; navigation only
	Operators bool   // only operators may follow it; navigation only
}

// Freshness is the age of a page's copy of one feed, and how it is polled.
type Freshness struct {
	Feed   string
	State  string    // "fresh", "stale", "resyncing", "diverged" or "paused"
	AsOf   time.Time // the copy is what the source had then; zero: there is no copy yet, or see Undated
	Behind int64     // entries that the source has beyond the copy, as far as it said
	Note   string    // what else a reader should know; may be empty
	Retry  time.Time // when the source is asked again, to stand after the note; may be zero

	Failing      string // that polls fail, in words that go on after the state and before FailingSince; empty: they do not
	FailingSince time.Time
	Undated      bool // there is a copy, but AsOf is not known

	Source   string    // URL of the feed at its source, for browsers; empty: not known
	URL      string    // path of the subscription; below it /schedule takes the form that tunes it
	NextAt   time.Time // when the source is asked next; zero: see Next
	Next     string    // the same in words; empty and no NextAt: not at all
	Schedule string
	Wait     string // how long a request waits at the source

	SetWait, SetPageSize string // what of that was set at run time; empty: nothing
}

// Polls reports whether the source will be asked.
func (f Freshness) Polls() bool { return f.Next != "" || !f.NextAt.IsZero() }

// Template parses the layout and the named files of fsys. One of them defines the template "main", and may define "nav"
// in place of Page.Nav's links. It may use list_search, list_nothing and list_pager with a [List]. Template is for the
// start of a program: it panics if a template is invalid.
func Template(fsys fs.FS, files ...string) *template.Template {
	t := template.Must(template.New("layout.html").Funcs(functions).ParseFS(pages, "layout.html", "list.html"))
	template.Must(t.ParseFS(fsys, files...))
	if t.Lookup("main") == nil {
		panic(fmt.Sprintf(`templates %v do not define "main"`, files))
	}
	return t
}

// Render answers with a page. If the template fails, it returns an error and has not answered. Cache-Control is
// no-cache unless it is set already; a page of an operator who is logged in is stored by no cache. Only the answer 200
// to a GET is followed: fetched again, others would be another page.
func Render(w http.ResponseWriter, r *http.Request, status int, t *template.Template, p Page) error {
	p.Operator = operatorOf(r)
	if status != http.StatusOK || r.Method != http.MethodGet && r.Method != http.MethodHead {
		p.Follow, p.Refresh = 0, 0
	}
	body, err := Execute(t, p)
	if err != nil {
		return err
	}
	h := w.Header()
	if p.Operator != "" {
		h.Del("Etag")                      // of the page as others see it
		h.Set("Cache-Control", "no-store") // Back does not show it after the logout
	}
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-cache")
	}
	Send(w, r, status, HTMLType, body)
	return nil
}

// Execute returns the bytes of a page, of the type text/html in UTF-8.
func Execute(t *template.Template, p Page) ([]byte, error) {
	var body bytes.Buffer
	if err := t.ExecuteTemplate(&body, "layout.html", p); err != nil {
		return nil, fmt.Errorf("render page %q: %w", p.Title, err)
	}
	return body.Bytes(), nil
}
