package subscribe

import (
	"cmp"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

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
	Subscriptions []Subscription
	Notice        string       // what was done
	Problem       *web.Problem // why it was not
}

func (s *Site) showFeed(c *gin.Context, p *poller, problem *web.Problem) error {
	sub := p.status(time.Now().UTC())
	s.showSubscriptions(c, statusOf(problem), "Subscription to "+p.Name, []Subscription{sub}, problem)
	return nil
}

func statusOf(problem *web.Problem) int {
	if problem == nil {
		return http.StatusOK
	}
	return cmp.Or(problem.Status, http.StatusInternalServerError)
}

func (s *Site) showSubscriptions(c *gin.Context, status int, title string, subs []Subscription, problem *web.Problem) {
	page := s.layout(c, title, subs, view{subs, notices[c.Query("done")], problem})
	for _, sub := range subs {
		if sub.UnderWay() && problem == nil {
			page.Refresh = 2
		}
	}
	webserver.Render(c, status, subscriptionsPage, page)
}

// A form is that of a schedule: as it is in force, or as it was refused.
type form struct {
	Subscription             Subscription
	Schedule, Wait, PageSize string
	Given                    struct { // what holds if nothing is set here
		Schedule, Wait string
		PageSize       int
	}
	Problem *web.Problem
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

func (s *Site) showForm(c *gin.Context, p *poller, problem *web.Problem) error {
	f := form{Subscription: p.status(time.Now().UTC()), Problem: problem}
	f.Given.Schedule, f.Given.Wait, f.Given.PageSize = p.state.given.schedule.String(), p.state.given.wait.String(), p.state.given.pageSize
	title := "Tune " + p.Name
	if problem == nil {
		f.Schedule, f.Wait, f.PageSize = f.Subscription.Schedule, f.Subscription.set.wait, f.Subscription.set.pageSize
	} else {
		title = "Error: " + title
		entered := c.Request.PostForm
		f.Schedule, f.Wait, f.PageSize = entered.Get("schedule"), entered.Get("wait"), entered.Get("page_size")
	}
	webserver.Render(c, statusOf(problem), schedulePage, s.layout(c, title, []Subscription{f.Subscription}, f))
	return nil
}
