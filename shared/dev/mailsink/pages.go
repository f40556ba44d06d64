package mailsink

import (
	"embed"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

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

// shownMails is the number of mails on a page.
const shownMails = 100

// Route adds the pages, and the same content as JSON.
func (s *Sink) Route(r gin.IRoutes) {
	webserver.GET(r, "/", s.list)
	webserver.GET(r, "/api/mails", func(c *gin.Context) {
		c.Header("Cache-Control", "private, no-cache")
		web.JSON(c.Writer, c.Request, http.StatusOK, s.find(c.Query("q")))
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

// find returns the mails, newest first, that have the text in an address, the subject, the text or the Message-ID.
func (s *Sink) find(text string) []received {
	text = strings.ToLower(strings.TrimSpace(text))
	return slices.DeleteFunc(s.received(), func(m received) bool {
		return !strings.Contains(strings.ToLower(strings.Join(append([]string{m.From, m.Subject, m.Text, m.MessageID}, m.To...), "\n")), text)
	})
}

type listing struct {
	Mails                []received
	Kept                 int
	Duplicates           int // mails with the Message-ID of an older one
	Q                    string
	Newest, Newer, Older string // links to other pages, or empty
}

func page(title string, data any) web.Page {
	return web.Page{Service: "Mail sink", Title: title, Data: data, Nav: Nav(title == "Mails"), Follow: 3}
}

// Nav returns the links on each page. The page of all mails may be the current one.
func Nav(all bool) []web.Link { return []web.Link{{Text: "Mails", URL: "/", Current: all}} }

func (s *Sink) list(c *gin.Context) {
	l := listing{Q: strings.TrimSpace(c.Query("q"))}
	for _, m := range s.received() {
		if l.Kept++; m.Copy > 1 {
			l.Duplicates++
		}
	}
	found, first := s.find(l.Q), 0
	if before, err := strconv.Atoi(c.Query("before")); err == nil {
		first = len(found)
		if i := slices.IndexFunc(found, func(m received) bool { return m.Number < before }); i >= 0 {
			first = i
		}
	}
	end := min(first+shownMails, len(found))
	l.Mails = found[first:end]
	link := func(start int) string { // of the page that begins there
		query := url.Values{}
		if l.Q != "" {
			query.Set("q", l.Q)
		}
		if start > 0 {
			query.Set("before", strconv.Itoa(found[start-1].Number))
		}
		return "/?" + query.Encode()
	}
	if first > 0 {
		l.Newest, l.Newer = link(0), link(max(first-shownMails, 0))
	}
	if end < len(found) {
		l.Older = link(end)
	}
	webserver.Render(c, http.StatusOK, mailsPage, page("Mails", l))
}

func (s *Sink) named(c *gin.Context) (received, error) {
	number, err := strconv.Atoi(c.Param("number"))
	list := s.received()
	i := slices.IndexFunc(list, func(m received) bool { return m.Number == number })
	if err != nil || i < 0 {
		return received{}, web.Errorf(http.StatusNotFound, "There is no such mail, or no longer.")
	}
	return list[i], nil
}

func (s *Sink) show(c *gin.Context) error {
	m, err := s.named(c)
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
	m, err := s.named(c)
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
	m, err := s.named(c)
	if err != nil {
		return err
	}
	web.Send(c.Writer, c.Request, http.StatusOK, "text/plain; charset=utf-8", m.Raw)
	return nil
}
