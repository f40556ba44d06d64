package subscribehttp

import (
	"cmp"
	"embed"
	"log/slog"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

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

// Config says how the pages look.
type Config struct {
	Title string            // of the program that subscribes: "Warehouse"
	Nav   func() []web.Link // links on each page; nil means that to the subscriptions
}

// Pages show and change the subscriptions of a subscriber.
type Pages struct {
	subscriber *subscribe.Subscriber
	config     Config
}

// New returns the pages of the subscriber.
func New(s *subscribe.Subscriber, config Config) *Pages {
	if config.Nav == nil {
		config.Nav = func() []web.Link { return []web.Link{{Text: "Subscriptions", URL: "/subscriptions"}} }
	}
	return &Pages{s, config}
}

// Handler returns a handler of all requests below /subscriptions and, for the pages' style, /assets. It lets anybody change what
// it shows: the caller keeps strangers away from it.
func (p *Pages) Handler(logger *slog.Logger) http.Handler {
	engine := web.New(logger)
	p.Route(engine, engine)
	return engine
}

// Layout returns a page of the title with how fresh the copies are at its top.
func (p *Pages) Layout(c *gin.Context, title string, copies []subscribe.Status, data any) web.Page {
	page := web.Page{Service: p.config.Title, Title: title, Data: data, Nav: p.config.Nav()}
	for i := range page.Nav {
		link := &page.Nav[i]
		link.Current = link.URL == c.Request.URL.Path || link.URL != "/" && strings.HasPrefix(c.Request.URL.Path, link.URL+"/")
	}
	for _, s := range copies {
		page.Freshness = append(page.Freshness, Status{s}.Freshness())
	}
	return page
}

// notices say what a form has done.
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

func (p *Pages) showAll(c *gin.Context) {
	c.Header("Vary", "Accept")
	copies := p.subscriber.Status()
	if web.PrefersHTML(c) {
		p.showSubscriptions(c, "Subscriptions", copies, nil)
		return
	}
	answer(c, http.StatusOK, copies)
}

func (p *Pages) showFeed(c *gin.Context, s *subscribe.Subscription, problem *web.Problem) error {
	status := s.Status()
	p.showSubscriptions(c, "Subscription to "+status.Feed, []subscribe.Status{status}, problem)
	return nil
}

func statusOf(problem *web.Problem) int {
	if problem == nil {
		return http.StatusOK
	}
	return cmp.Or(problem.Status, http.StatusInternalServerError)
}

func (p *Pages) showSubscriptions(c *gin.Context, title string, copies []subscribe.Status, problem *web.Problem) {
	v := view{Notice: notices[c.Query("done")], Problem: problem}
	page := p.Layout(c, title, copies, nil)
	for _, s := range copies {
		v.Subscriptions = append(v.Subscriptions, Status{s})
		if (Status{s}).UnderWay() && problem == nil {
			page.Refresh = 2
		}
	}
	page.Data = v
	web.Render(c, statusOf(problem), subscriptionsPage, page)
}

// A form is that of a schedule: as it is in force, or as it was refused.
type form struct {
	Subscription             Status
	Schedule, Wait, PageSize string
	Problem                  *web.Problem
}

// Wrong says what is wrong with a field; empty: nothing.
func (f form) Wrong(field string) string {
	if f.Problem != nil {
		for _, e := range f.Problem.Errors {
			if e.Field == field {
				return e.Detail
			}
		}
	}
	return ""
}

func (p *Pages) showForm(c *gin.Context, s *subscribe.Subscription, problem *web.Problem) error {
	f := form{Subscription: Status{s.Status()}, Problem: problem}
	title := "Tune " + f.Subscription.Feed
	if problem == nil {
		f.Schedule, f.Wait, f.PageSize = f.Subscription.Schedule, f.Subscription.Detail.Set.Wait, f.Subscription.Detail.Set.PageSize
	} else {
		title = "Error: " + title
		entered := c.Request.PostForm
		f.Schedule, f.Wait, f.PageSize = entered.Get("schedule"), entered.Get("wait"), entered.Get("page_size")
	}
	web.Render(c, statusOf(problem), schedulePage, p.Layout(c, title, []subscribe.Status{f.Subscription.Status}, f))
	return nil
}
