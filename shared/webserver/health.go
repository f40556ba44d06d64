package webserver

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/sync/singleflight"

	"github.com/edison-cars/data-feeds/shared/web"
)

// Health adds /livez, which answers 200 while the process serves, and /readyz, which answers 200 while ready returns no
// error within 2 s, else 503 with the problem that it returned. Requests that come while ready runs get what it
// returns: so they take one connection to the database, however many they are.
func Health(r gin.IRoutes, ready func(context.Context) error) {
	var asking singleflight.Group
	GET(r, "/livez", func(c *gin.Context) { c.String(http.StatusOK, "ok\n") })
	GET(r, "/readyz", Handle(func(c *gin.Context) error {
		_, err, _ := asking.Do("", func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), 2*time.Second)
			defer cancel()
			return nil, ready(ctx)
		})
		if err != nil {
			p := *web.Errorf(http.StatusServiceUnavailable, "Not ready: the database does not answer.")
			if problem := web.ProblemIn(err); problem != nil {
				p = *problem // which may be everybody's
			}
			p.Header = http.Header{"Retry-After": {"1"}}
			return &p
		}
		c.String(http.StatusOK, "ok\n")
		return nil
	}))
}
