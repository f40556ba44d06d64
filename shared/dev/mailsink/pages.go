package mailsink

import (
	"embed"
	"net/http"
	"slices"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

//go:embed *.html
var pages embed.FS

var (
	mailsPage = web.Template(pages, "mails.html")
	mailPage  = web.Template(pages, "mail.html")
)

// shownMails is the number of mails on the first page.
const shownMails = 200

// Route adds the pages, and the same content as JSON.
func (s *Sink) Route(r gin.IRoutes) {
	webserver.GET(r, "/", s.list)
	webserver.GET(r, "/api/mails", func(c *gin.Context) {
		c.Header("Cache-Control", "private, no-cache")
		web.JSON(c.Writer, c.Request, http.StatusOK, s.received())
	})
	webserver.GET(r, "/mails/:number", webserver.Handle(s.show))
	webserver.GET(r, "/mails/:number/html", webserver.Handle(s.showHTML))
	webserver.GET(r, "/mails/:number/raw", webserver.Handle(s.showRaw))
}

type received struct {
	*Mail
	Copy   int `json:"copy"`   // 1 for the first with this Message-ID, 2 for the second ...
	Copies int `json:"copies"` // with this Message-ID
}

func (s *Sink) received() []received {
	mails := s.Mails()
	list, copies := make([]received, 0, len(mails)), map[string]int{}
	for _, m := range mails {
		if m.MessageID != "" {
			copies[m.MessageID]++
		}
		list = append(list, received{m, max(1, copies[m.MessageID]), 0})
	}
	for i, m := range list {
		list[i].Copies = max(1, copies[m.MessageID])
	}
	slices.Reverse(list)
	return list
}

type listing struct {
	Mails      []received // the newest
	Kept       int
	Duplicates int // mails with the Message-ID of an older one
}

func page(title string, data any) web.Page {
	return web.Page{Service: "Mail sink", Title: title, Data: data, Nav: Nav(title == "Mails"), Follow: 3}
}

// Nav returns the links on each page. The page of all mails may be the current one.
func Nav(all bool) []web.Link { return []web.Link{{Text: "Mails", URL: "/", Current: all}} }

func (s *Sink) list(c *gin.Context) {
	list := s.received()
	l := listing{Mails: list[:min(shownMails, len(list))], Kept: len(list)}
	for _, m := range list {
		if m.Copy > 1 {
			l.Duplicates++
		}
	}
	webserver.Render(c, http.StatusOK, mailsPage, page("Mails", l))
}

func (s *Sink) find(c *gin.Context) (received, error) {
	number, err := strconv.Atoi(c.Param("number"))
	list := s.received()
	i := slices.IndexFunc(list, func(m received) bool { return m.Number == number })
	if err != nil || i < 0 {
		return received{}, web.Errorf(http.StatusNotFound, "There is no such mail, or no longer.")
	}
	return list[i], nil
}

func (s *Sink) show(c *gin.Context) error {
	m, err := s.find(c)
	if err != nil {
		return err
	}
	title := m.Subject
	if title == "" {
		title = "Mail without a subject"
	}
	webserver.Render(c, http.StatusOK, mailPage, page(title, m))
	return nil
}

// showHTML shows the HTML part as a mail program would, in a document that cannot run or load anything.
func (s *Sink) showHTML(c *gin.Context) error {
	m, err := s.find(c)
	if err != nil {
		return err
	}
	if m.HTML == "" {
		return web.Errorf(http.StatusNotFound, "This mail has no HTML part.")
	}
	c.Header("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:")
	web.Send(c.Writer, c.Request, http.StatusOK, web.HTMLType, []byte(m.HTML))
	return nil
}

func (s *Sink) showRaw(c *gin.Context) error {
	m, err := s.find(c)
	if err != nil {
		return err
	}
	web.Send(c.Writer, c.Request, http.StatusOK, "text/plain; charset=utf-8", m.Raw)
	return nil
}
