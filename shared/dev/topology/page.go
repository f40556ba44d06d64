package topology

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/trace"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

//go:embed *.html *.svg map.css
var files embed.FS

var (
	mapPage = web.Template(files, "map.html", "drawing.html", "way.html")
	picture = template.Must(template.New("picture.svg").Funcs(web.Functions()).ParseFS(files, "picture.svg", "drawing.html"))
	style   = func() []byte {
		css, err := files.ReadFile("map.css")
		if err != nil {
			panic(err) // the template is embedded
		}
		return css
	}()
)

// refresh is the interval in seconds at which the page reloads itself.
const refresh = 2

type view struct {
	Drawing *drawing
	Narrow  *drawing // the same for narrow windows
	Style   string   // path of the stylesheet
	States  []State
	Away    []State // services that are not up
	Refuse  []State // services that do not show the map their feeds and copies
	Token   bool    // the map has a token
	Still   bool    // the page does not reload itself
	Query   string  // that is searched for
	Way     *Way    // nil unless Query has an id
}

// Route adds the page at /, which with ?q=ID shows the way of an order, and both as JSON at /api/services and
// /api/trace/{id}.
func Route(r gin.IRoutes, w *Watch) {
	path := "/map.css?v=" + web.Fingerprint(files)
	webserver.GET(r, "/", func(c *gin.Context) {
		states := w.States()
		v := view{
			Drawing: draw(states), Narrow: drawNarrow(states), Style: path, States: troubleFirst(states),
			Token: w.token != "", Still: c.Query("refresh") == "off", Query: c.Query("q"),
		}
		if id, ok := trace.IDIn(v.Query); ok {
			v.Way = w.follow(c.Request.Context(), id)
		}
		for _, s := range states {
			if s.Status == Down || s.Status == NotReady {
				v.Away = append(v.Away, s)
			}
			if s.refuses && s.Status != Down {
				v.Refuse = append(v.Refuse, s)
			}
		}
		page := web.Page{Service: "Cars", Title: "The company", Data: v}
		if !v.Still {
			page.Follow = refresh
		}
		if v.Query != "" {
			page.Title = "Search"
		} else {
			page.Refresh = page.Follow
		}
		webserver.Render(c, http.StatusOK, mapPage, page)
	})
	webserver.GET(r, "/api/services", func(c *gin.Context) {
		c.Header("Cache-Control", "private, no-cache")
		web.JSON(c.Writer, c.Request, http.StatusOK, w.States())
	})
	webserver.GET(r, "/api/trace/:id", webserver.Handle(func(c *gin.Context) error {
		id, err := uuid.Parse(c.Param("id"))
		if err != nil {
			return web.Errorf(http.StatusNotFound, "An order, customer, build or shipment has a UUID of 36 characters.")
		}
		c.Header("Cache-Control", "private, no-cache")
		web.JSON(c.Writer, c.Request, http.StatusOK, w.follow(c.Request.Context(), id))
		return nil
	}))
	webserver.GET(r, "/map.css", func(c *gin.Context) {
		c.Header("Cache-Control", "public, max-age=31536000, immutable")
		web.Send(c.Writer, c.Request, http.StatusOK, "text/css; charset=utf-8", style)
	})
}

// Picture returns an SVG image of the services and the feeds that they read, with links, without their state.
func Picture(states []State) ([]byte, error) {
	for i := range states {
		s := &states[i]
		s.askedAt = s.URL
		slices.SortFunc(s.Reads, func(a, b Copy) int { return strings.Compare(a.Feed, b.Feed) })
	}
	var out bytes.Buffer
	err := picture.ExecuteTemplate(&out, "picture.svg", map[string]any{"Drawing": draw(connect(states)), "Style": template.CSS(style)})
	return out.Bytes(), err
}

// Class returns the CSS class of the status.
func (s State) Class() string { return strings.ReplaceAll(s.Status, " ", "-") }

// Words returns the service's status in words, or its port in a picture without states.
func (s State) Words() string {
	switch s.Status {
	case "":
		u, err := url.Parse(s.URL)
		if err != nil {
			return ""
		}
		return ":" + u.Port()
	case Up:
		return Up
	case Unknown:
		if s.Since.IsZero() {
			return "not of this company"
		}
		return "not asked yet"
	}
	return s.Status + " since " + s.Since.Format("15:04:05")
}

// Class returns the CSS class of the state. A fresh copy whose polls fail is drawn as stale.
func (c Copy) Class() string {
	if c.Failing != nil && c.State == "fresh" {
		return "stale"
	}
	return c.State
}

// Words returns the copy's state and lag: the entries that the source has beyond it, and for how long it may have
// missed something.
func (c Copy) Words() string {
	switch {
	case c.State == "" || c.State == Unknown:
		return c.State
	case c.AsOf == nil:
		return c.State + ", no copy yet"
	}
	return fmt.Sprintf("%s, %s behind, %s", c.State, web.Num(c.Behind), web.Ago(*c.AsOf))
}

// Next returns when the source is polled next, in words.
func (c Copy) Next() string {
	if len(c.NextPolls) == 0 {
		return "–"
	}
	if next := c.NextPolls[0]; time.Until(next) > 24*time.Hour {
		return next.Format("2 Jan, 15:04:05") + " UTC"
	}
	return c.NextPolls[0].Format("15:04:05") + " UTC"
}

// Words returns the number of entries in words.
func (f Feed) Words() string {
	if f.Entries < 0 {
		return "/feeds/" + f.Name
	}
	return entries(f.Entries)
}
