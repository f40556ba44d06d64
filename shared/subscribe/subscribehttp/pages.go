package subscribehttp

import (
	"cmp"
	"embed"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
)

//go:embed *.html
var templates embed.FS

var (
	subscriptionsPage   = web.Template(templates, "subscriptions.html")
	schedulePage        = web.Template(templates, "schedule.html")
	rejectedEntriesPage = web.Template(templates, "rejected.html")
)

// Options say how the pages look.
type Options struct {
	Brand  string            // stands before Title on the pages; may be empty
	Title  string            // of the program that subscribes: "Warehouse"
	Nav    func() []web.Link // links on each page; nil means that to the subscriptions
	Logger *slog.Logger      // takes the errors that people are not told; by default [slog.Default]
}

// Pages show and change the subscriptions of a subscriber. They are an [http.Handler] for any router.
type Pages struct {
	subscriber *subscribe.Subscriber
	options    Options
	mux        *http.ServeMux
}

// New returns the pages of the subscriber.
func New(s *subscribe.Subscriber, options Options) *Pages {
	if options.Nav == nil {
		options.Nav = func() []web.Link { return []web.Link{{Text: "Subscriptions", URL: "/subscriptions"}} }
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	p := &Pages{subscriber: s, options: options}
	p.mux = p.route()
	return p
}

// follow is the seconds after which a page is fetched again.
const follow = 3

// Layout returns a page of the title with how fresh the copies are at its top.
func (p *Pages) Layout(r *http.Request, title string, copies []subscribe.Status, data any) web.Page {
	page := web.Page{Brand: p.options.Brand, Service: p.options.Title, Title: title, Data: data, Nav: p.options.Nav(), Follow: follow}
	for i := range page.Nav {
		link := &page.Nav[i]
		link.Current = link.URL == r.URL.Path || link.URL != "/" && strings.HasPrefix(r.URL.Path, link.URL+"/")
	}
	for _, s := range copies {
		page.Freshness = append(page.Freshness, Status{s}.Freshness())
	}
	return page
}

var notices = map[string]string{
	"tuned":     "Done: this is how the feed is polled from now on.",
	"reset":     "Done: the feed is polled as the environment, or else the default, says.",
	"polled":    "Polled: the source has answered, and what was new is in the copy.",
	"paused":    "Paused: the source is not asked until polling is resumed, but the copy serves.",
	"resumed":   "Resumed: the source is asked on schedule again.",
	"forgotten": "Forgotten: the copy has nothing of that source any more.",
	"resyncing": "The feed is read again, from its first entry. Until that is done the copy serves as it is.",
}

// A view is what the pages of a subscription show.
type view struct {
	Subscriptions []Status
	Open          bool   // all of them
	Polls         *polls // of the one that is shown; nil means that several are
	Removed       []subscribe.RemovedSource
	Notice        string       // what was done
	Problem       *web.Problem // why it was not
}

// A pollLine is a poll in the words of the pages.
type pollLine struct{ subscribe.Poll }

// Words says how the poll went.
func (p pollLine) Words() string {
	switch p.Outcome {
	case subscribe.PollNotModified:
		return "304, nothing new"
	case subscribe.PollCut:
		return "cut off on its way while it waited"
	}
	return entries(p.Entries)
}

// Took says how long the poll took.
func (p pollLine) Took() string {
	if p.Seconds < 60 {
		return fmt.Sprintf("%.3f s", p.Seconds)
	}
	return span(p.Seconds)
}

// newest is how many polls are shown at once; the others open.
const newest = 10

func (p *polls) Newest() []pollLine { return p.List[:min(newest, len(p.List))] }
func (p *polls) Older() []pollLine  { return p.List[min(newest, len(p.List)):] }

// polls are the last polls of a feed.
type polls struct {
	Known bool // false: the database does not answer
	List  []pollLine
	Facts [][2]string
}

func (p *Pages) showAll(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Vary", "Accept")
	copies := p.subscriber.Status()
	if !web.PrefersHTML(r) && r.URL.Query().Has("removed") {
		removed, err := p.removed(r)
		if err != nil {
			return err
		}
		answer(w, r, http.StatusOK, removed)
		return nil
	}
	if !web.PrefersHTML(r) {
		answer(w, r, http.StatusOK, copies)
		return nil
	}
	byTrouble := slices.Clone(copies)
	slices.SortStableFunc(byTrouble, func(a, b subscribe.Status) int { return cmp.Compare(Status{a}.rank(), Status{b}.rank()) })
	removed, _ := p.subscriber.Removed(r.Context()) // the page is of use while the database is down
	return p.showSubscriptions(w, r, "Subscriptions", copies, view{Subscriptions: inWords(byTrouble...), Open: len(copies) == 1, Removed: removed})
}

func inWords(copies ...subscribe.Status) (list []Status) {
	for _, s := range copies {
		list = append(list, Status{s})
	}
	return list
}

func (p *Pages) showFeed(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription, problem *web.Problem) error {
	status := s.Status()
	list, err := s.Polls(r.Context())
	v := view{Subscriptions: inWords(status), Open: true, Problem: problem, Polls: &polls{Known: err == nil}}
	for _, p := range list {
		v.Polls.List = append(v.Polls.List, pollLine{p})
	}
	v.Polls.Facts = Preview{Preview: subscribe.Preview{Measured: subscribe.Measure(list)}}.Facts()
	return p.showSubscriptions(w, r, "Subscription to "+status.Feed, []subscribe.Status{status}, v)
}

func statusOf(problem *web.Problem) int {
	if problem == nil {
		return http.StatusOK
	}
	return cmp.Or(problem.Status, http.StatusInternalServerError)
}

func (p *Pages) showSubscriptions(w http.ResponseWriter, r *http.Request, title string, copies []subscribe.Status, v view) error {
	v.Notice = notices[r.URL.Query().Get("done")]
	page := p.Layout(r, title, copies, v)
	for _, s := range v.Subscriptions {
		if s.UnderWay() && v.Problem == nil {
			page.Refresh = 2
		}
	}
	return web.Render(w, r, statusOf(v.Problem), subscriptionsPage, page)
}

type form struct {
	Subscription             Status
	Schedule, Wait, PageSize string
	Reset                    bool     // the preview is that of the settings without those made at run time
	Preview                  *Preview // nil means that none was asked for
	Problem                  *web.Problem
}

func (f form) Wrong(field string) string { return f.Problem.Wrong(field) }

func (p *Pages) showForm(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription, problem *web.Problem) error {
	return p.renderForm(w, r, s, nil, problem)
}

func (p *Pages) renderForm(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription, preview *Preview, problem *web.Problem) error {
	f := form{Subscription: Status{s.Status()}, Preview: preview, Problem: problem}
	title := "Tune " + f.Subscription.Feed
	if problem == nil && preview == nil {
		f.Schedule, f.Wait, f.PageSize = f.Subscription.Schedule, f.Subscription.Detail.Set.Wait, f.Subscription.Detail.Set.PageSize
	} else {
		entered := r.URL.Query()
		if r.Method == http.MethodPost {
			entered = r.PostForm
		}
		f.Schedule, f.Wait, f.PageSize, f.Reset = entered.Get("schedule"), entered.Get("wait"), entered.Get("page_size"), entered.Has("reset")
	}
	switch {
	case problem != nil:
		title = "Error: " + title
	case f.Reset:
		f.Schedule, f.Wait, f.PageSize = preview.Proposed.Schedule, "", ""
		fallthrough
	case preview != nil:
		title = "Preview: " + title
	}
	return web.Render(w, r, statusOf(problem), schedulePage, p.Layout(r, title, []subscribe.Status{f.Subscription.Status}, f))
}
