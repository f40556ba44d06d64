package service

import (
	"embed"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

//go:embed trace.html
var pages embed.FS

// tracePage shows a traced part.
var tracePage = web.Template(pages, "trace.html")

// traced is the data of tracePage.
type traced struct {
	trace.Part
	ID    uuid.UUID
	Known bool
	Whole string // URL of the whole way, on the map; empty if the map is not known
}

// Trace adds GET /api/trace/{id} and the page /trace/{id}, which operators may read: what the process knows of an order.
// layout returns the page around it.
func (r *Router) Trace(layout func(r *http.Request, title string, data any) web.Page, ask func(r *http.Request, id uuid.UUID) (trace.Part, error)) {
	r.traces = true
	read := func(c *gin.Context) (id uuid.UUID, p trace.Part, err error) {
		if id, err = uuid.Parse(c.Param("id")); err != nil {
			return id, p, web.Errorf(http.StatusNotFound, "An order, customer, build or shipment has a UUID of 36 characters.")
		}
		p, err = ask(c.Request, id)
		c.Header("Cache-Control", "private, no-cache")
		return id, p.Complete(), err
	}
	webserver.GET(r.Operators, "/api/trace/:id", webserver.Handle(func(c *gin.Context) error {
		_, p, err := read(c)
		if err == nil {
			web.JSON(c.Writer, c.Request, http.StatusOK, p)
		}
		return err
	}))
	webserver.GET(r.Operators, "/trace/:id", webserver.Handle(func(c *gin.Context) error {
		id, p, err := read(c)
		if err != nil {
			return err
		}
		view := traced{Part: p, ID: id, Known: p.OrderID != nil || p.CustomerID != nil}
		if r.MapURL != "" {
			view.Whole = r.MapURL + "/?q=" + id.String()
		}
		webserver.Render(c, http.StatusOK, tracePage, layout(c.Request, "Trace", view))
		return nil
	}))
}
