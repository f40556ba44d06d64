package web

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// Health adds /livez, which answers 200 while the process serves, and /readyz, which answers 200 while ready gives no
// error within 2 s, else 503 with the problem that it gave.
func Health(r gin.IRoutes, ready func(context.Context) error) {
	GET(r, "/livez", func(c *gin.Context) { c.String(http.StatusOK, "ok\n") })
	GET(r, "/readyz", Handle(func(c *gin.Context) error {
		ctx, cancel := context.WithTimeout(c.Request.Context(), 2*time.Second)
		defer cancel()
		if err := ready(ctx); err != nil {
			p := *Errorf(http.StatusServiceUnavailable, "Not ready: the database does not answer.")
			if problem, ok := errors.AsType[*Problem](err); ok {
				p = *problem // which may be everybody's
			}
			p.Header = http.Header{"Retry-After": {"1"}}
			return &p
		}
		c.String(http.StatusOK, "ok\n")
		return nil
	}))
}
