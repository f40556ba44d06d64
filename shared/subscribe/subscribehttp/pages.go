package subscribehttp

import (
	"cmp"
	"embed"
	"log/slog"
	"net/http"
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
	"resyncing": "The feed is read again, from its first entry. Until that is done the copy serves as it is.",
}

// A view is what the pages of a subscription show.
type view struct {
	Subscriptions []Status
	Notice        string       // what was done
	Problem       *web.Problem // why it was not
}

func (p *Pages) showAll(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Vary", "Accept")
	copies := p.subscriber.Status()
	if web.PrefersHTML(r) {
		return p.showSubscriptions(w, r, "Subscriptions", copies, nil)
	}
	answer(w, r, http.StatusOK, copies)
	return nil
}

func (p *Pages) showFeed(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription, problem *web.Problem) error {
	status := s.Status()
	return p.showSubscriptions(w, r, "Subscription to "+status.Feed, []subscribe.Status{status}, problem)
}

func statusOf(problem *web.Problem) int {
	if problem == nil {
		return http.StatusOK
	}
	return cmp.Or(problem.Status, http.StatusInternalServerError)
}

func (p *Pages) showSubscriptions(w http.ResponseWriter, r *http.Request, title string, copies []subscribe.Status, problem *web.Problem) error {
	v := view{Notice: notices[r.URL.Query().Get("done")], Problem: problem}
	page := p.Layout(r, title, copies, nil)
	for _, s := range copies {
		v.Subscriptions = append(v.Subscriptions, Status{s})
		if (Status{s}).UnderWay() && problem == nil {
			page.Refresh = 2
		}
	}
	page.Data = v
	return web.Render(w, r, statusOf(problem), subscriptionsPage, page)
}

type form struct {
	Subscription             Status
	Schedule, Wait, PageSize string
	Problem                  *web.Problem
}

func (f form) Wrong(field string) string { return f.Problem.Wrong(field) }

func (p *Pages) showForm(w http.ResponseWriter, r *http.Request, s *subscribe.Subscription, problem *web.Problem) error {
	f := form{Subscription: Status{s.Status()}, Problem: problem}
	title := "Tune " + f.Subscription.Feed
	if problem == nil {
		f.Schedule, f.Wait, f.PageSize = f.Subscription.Schedule, f.Subscription.Detail.Set.Wait, f.Subscription.Detail.Set.PageSize
	} else {
		title = "Error: " + title
		entered := r.PostForm
		f.Schedule, f.Wait, f.PageSize = entered.Get("schedule"), entered.Get("wait"), entered.Get("page_size")
	}
	return web.Render(w, r, statusOf(problem), schedulePage, p.Layout(r, title, []subscribe.Status{f.Subscription.Status}, f))
}
