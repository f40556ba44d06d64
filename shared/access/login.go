package access

import (
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

const (
	maxPath   = 2000     // bytes of the path after the login
	maxSent   = 64 << 10 // bytes of a form that is kept during the login
	maxFields = 200      // of such a form
)

//go:embed login.html
var pages embed.FS

var loginPage = web.Template(pages, "login.html")

type login struct {
	Next    string // the local path after the login, or ""
	Form    *form  // that was sent without a session; or nil
	Ended   bool   // the form was sent without a session
	Out     bool   // the operator has logged out
	Problem string // the reason why the login failed
	Refused string // the reason why a login is impossible here
	Name    string // the operator that has logged in, while a form waits to be sent again
}

type form struct {
	To   string // path
	Back string // path of its page, or ""
	Body string // URL-encoded
}

// Fields returns the names and values of the form.
func (f *form) Fields() url.Values {
	fields, _ := url.ParseQuery(f.Body) // valid has checked it
	return fields
}

// valid reports whether the form may be sent again: to this server, and within the limits.
func (f *form) valid() bool {
	fields, err := url.ParseQuery(f.Body)
	count := 0
	for name, values := range fields {
		count += len(values)
		for _, s := range append(values, name) {
			if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
				return false
			}
		}
	}
	return err == nil && len(f.Body) <= maxSent && count <= maxFields && localPath(f.To) && (f.Back == "" || localPath(f.Back))
}

// Route adds the routes for login and logout of operators.
func (a *Access) Route(r gin.IRoutes) {
	webserver.GET(r, "/login", webserver.Handle(a.showLogin))
	r.POST("/login", webserver.Handle(a.logIn))
	r.POST("/logout", webserver.Handle(a.logOut))
}

func (a *Access) leadToLogin(c *gin.Context) error {
	c.Header("Cache-Control", "no-store")
	defer c.Abort()
	req := c.Request
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		to := "/login"
		if path := req.URL.RequestURI(); localPath(path) {
			to += "?next=" + url.QueryEscape(path)
		}
		c.Redirect(http.StatusSeeOther, to)
		return nil
	}
	page := login{Ended: true}
	sent, err := io.ReadAll(io.LimitReader(req.Body, maxSent+1))
	if err != nil {
		return err
	}
	f := &form{To: req.URL.RequestURI(), Back: backTo(req), Body: string(sent)}
	if (c.ContentType() == gin.MIMEPOSTForm || len(sent) == 0) && req.Method == http.MethodPost && f.valid() {
		page.Form = f
	} else {
		page.Next = f.Back
	}
	a.show(c, http.StatusUnauthorized, page)
	return nil
}

// backTo returns the path of the page that sent the request, if it is one of this server, or "".
func backTo(req *http.Request) string {
	from, err := url.Parse(req.Referer())
	if err != nil || from.Host != req.Host || !localPath(from.RequestURI()) {
		return ""
	}
	return from.RequestURI()
}

func (a *Access) show(c *gin.Context, status int, page login) {
	if page.Refused = a.refused(c); page.Refused != "" {
		status = http.StatusForbidden
	}
	if status == http.StatusUnauthorized {
		c.Writer.Header()["Www-Authenticate"] = a.bearer
	}
	c.Header("Cache-Control", "no-store")
	webserver.Render(c, status, loginPage, web.Page{Service: a.Title, Title: "Log in", Data: page})
}

// refused returns the reason why a login by this request is impossible, or "".
func (a *Access) refused(c *gin.Context) string {
	if h, ok := parseHost(c.Request.Host); !webserver.HTTPS(c) && (!ok || !h.loopback() || proxied(c.Request)) { // a proxy may set any Host
		return "This connection is not encrypted: others could read the token and the session. Use https: set TLS_CERT_FILE and " +
			"TLS_KEY_FILE, or list the proxy that has the certificate in TRUSTED_PROXIES and let it send X-Forwarded-Proto. " +
			"On the machine itself, use http://localhost, without a proxy."
	}
	if !a.tokens.Load().operators() {
		return "No operator's token is listed yet. Make one with `go run ./sales-feed token --operator NAME`, and list its entry in TOKENS or TOKENS_FILE. " +
			"Or, for all programs and browsers on this machine, set ACCESS=open."
	}
	return ""
}

func (a *Access) showLogin(c *gin.Context) error {
	next := c.Query("next")
	if !localPath(next) {
		next = ""
	}
	if loggedIn(c) != "" {
		redirect(c, next)
		return nil
	}
	_, out := c.GetQuery("out")
	a.show(c, http.StatusOK, login{Next: next, Out: out})
	return nil
}

func redirect(c *gin.Context, next string) {
	if next == "" {
		next = "/"
	}
	c.Header("Cache-Control", "no-store")
	c.Redirect(http.StatusSeeOther, next)
}

func (a *Access) logIn(c *gin.Context) error {
	page := login{Next: c.PostForm("next")}
	if !localPath(page.Next) {
		page.Next = ""
	}
	if to := c.PostForm("form_to"); to != "" {
		if f := (&form{To: to, Back: c.PostForm("form_back"), Body: c.PostForm("form_body")}); f.valid() {
			page.Form = f
		}
	}
	if a.refused(c) != "" {
		a.show(c, http.StatusForbidden, page)
		return nil
	}
	known := a.tokens.Load().find(strings.TrimSpace(c.PostForm("token")))
	if known == nil || known.Role != Operator { // an operator is not locked out by other clients at the same address
		err := a.attempts.Check(c.Request, 1)
		if err == nil {
			err = a.allAttempts.CheckAll(1)
		}
		if p, ok := errors.AsType[*web.Problem](err); ok {
			c.Header("Retry-After", p.Header.Get("Retry-After"))
			page.Problem = p.Detail
			a.show(c, p.Status, page)
			return nil
		}
	}
	switch {
	case known == nil:
		a.Logger.WarnContext(c.Request.Context(), "login refused", "client", c.ClientIP())
		page.Problem = "This token is not valid here."
		a.show(c, http.StatusUnauthorized, page)
		return nil
	case known.Role != Operator:
		a.Logger.WarnContext(c.Request.Context(), "login refused", "client", c.ClientIP(), "reader", known.Name)
		page.Problem = "This is a reader's token, for programs that read feeds: they send it as Bearer, or as the password of Basic. Log in with an operator's token."
		a.show(c, http.StatusForbidden, page)
		return nil
	}
	id := rand.Text()
	if err := a.sessions.add(c.Request.Context(), sha256.Sum256([]byte(id)), known.hash); err != nil {
		return err
	}
	a.Logger.InfoContext(c.Request.Context(), "operator logged in", "operator", known.Name, "client", c.ClientIP())
	a.setCookie(c, webserver.HTTPS(c), id, int(sessionTime.Seconds()))
	if page.Form != nil {
		page.Name = known.Name
		webserver.SetSession(c, func() string { return known.Name })
		a.show(c, http.StatusOK, page)
		return nil
	}
	redirect(c, page.Next)
	return nil
}

func (a *Access) logOut(c *gin.Context) error {
	for _, https := range []bool{true, false} {
		if https && !webserver.HTTPS(c) { // browsers would refuse the cookie
			continue
		}
		sent, err := c.Request.Cookie(a.cookieName(https))
		if err != nil {
			continue
		}
		if err := a.sessions.remove(c.Request.Context(), sha256.Sum256([]byte(sent.Value))); err != nil {
			return err
		}
		a.setCookie(c, https, "", -1)
	}
	c.Header("Cache-Control", "no-store")
	c.Redirect(http.StatusSeeOther, "/login?out")
	return nil
}

// cookieName returns a name per service, since browsers send a cookie to all ports of a host.
func (a *Access) cookieName(https bool) string {
	if https {
		return "__Host-" + a.Service + "_session"
	}
	return a.Service + "_session"
}

func (a *Access) setCookie(c *gin.Context, https bool, value string, maxAge int) {
	http.SetCookie(c.Writer, &http.Cookie{
		Name: a.cookieName(https), Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: https, SameSite: http.SameSiteLaxMode,
	})
}
