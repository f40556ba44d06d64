package access

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// A claim is what a request brings to be let in.
type claim struct {
	Identity
	token   *token  // of the Identity; nil means none
	invalid bool    // there is a token that is not valid
	cookie  *cookie // nil means none. If its session is valid, that is what counts.
}

// Claims without anything that differs from one request to another.
var (
	nothing      = &claim{}
	invalidToken = &claim{invalid: true}
	openAccess   = &claim{Identity: Identity{Role: Operator}}
)

// A cookie is the one of a session, which is looked up once if the request needs it.
type cookie struct {
	access *Access
	id     sum
	looked bool
	found  *claim
	err    error
}

type claimKey struct{}

// broughtBy returns the credentials of a request.
func broughtBy(c *gin.Context) *claim {
	value, _ := c.Get(claimKey{})
	if brought, ok := value.(*claim); ok {
		return brought
	}
	return nothing
}

// claimOf returns what counts of a request. If the session cannot be looked up, it returns the rest and an error.
func claimOf(c *gin.Context) (*claim, error) {
	brought := broughtBy(c)
	k := brought.cookie
	if k == nil {
		return brought, nil
	}
	if !k.looked {
		k.looked = true
		k.found, k.err = k.access.session(c.Request.Context(), k.id)
		if k.found != nil {
			webserver.SetReader(c, k.found.Name)
		}
	}
	if k.found != nil {
		return k.found, nil
	}
	return brought, k.err
}

// session returns the claim of a session, or nil if there is no such session or no longer.
func (a *Access) session(ctx context.Context, id sum) (*claim, error) {
	found, err := a.sessions.find(ctx, id)
	hash, ok := found[id]
	if err != nil || !ok {
		return nil, err
	}
	if known := a.operator(hash); known != nil {
		return known.asBearer, nil
	}
	return nil, nil
}

// operator returns the operator's token that has the hash, or nil.
func (a *Access) operator(hash sum) *token {
	if known := a.tokens.Load().byHash(hash); known != nil && known.Role == Operator {
		return known
	}
	return nil
}

// Identify is for the whole engine. It refuses requests for hosts that are not ours with 421, all but those for health, and lets
// [Of] find the identity. It refuses nobody else.
func (a *Access) Identify() gin.HandlerFunc { return webserver.HandleLong(a.identify) }

func (a *Access) identify(c *gin.Context) error {
	req := c.Request
	if path := c.FullPath(); path == "/livez" || path == "/readyz" {
		return nil
	}
	if !a.ours(req.Host) {
		return web.Errorf(http.StatusMisdirectedRequest, "This server is not %.100q. HOSTS lists the names that it has beside PUBLIC_URL's and localhost.", req.Host)
	}
	brought := a.claim(req)
	if brought.token != nil {
		webserver.SetReader(c, brought.token.Name)
	}
	if req.Header["Cookie"] != nil {
		if sent, err := req.Cookie(a.cookieName(webserver.HTTPS(c))); err == nil && sent.Value != "" {
			withCookie := *brought
			withCookie.cookie = &cookie{access: a, id: sha256.Sum256([]byte(sent.Value))}
			brought = &withCookie
			webserver.SetSession(c, func() string { return loggedIn(c) })
		}
	}
	if brought != nothing {
		c.Set(claimKey{}, brought)
	}
	return nil
}

// loggedIn returns the name of the operator whose session the request has, or "".
func loggedIn(c *gin.Context) string {
	if k := broughtBy(c).cookie; k != nil {
		if _, _ = claimOf(c); k.found != nil {
			return k.found.Name
		}
	}
	return ""
}

// claim returns what a request brings beside a session. A token counts, valid or not, more than open access.
func (a *Access) claim(req *http.Request) *claim {
	fields := req.Header["Authorization"]
	if len(fields) == 0 {
		if a.mode == Open && local(req) {
			return openAccess
		}
		return nothing
	}
	if len(fields) > 1 {
		return invalidToken
	}
	scheme, text, _ := strings.Cut(fields[0], " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		if known := a.tokens.Load().find(strings.Trim(text, " ")); known != nil {
			return known.asBearer
		}
	case strings.EqualFold(scheme, "Basic"):
		user, password, _ := req.BasicAuth()
		if known := a.tokens.Load().find(password); known != nil && (user == "" || user == known.Name) {
			return known.asPassword
		}
	}
	return invalidToken
}

// Reader lets readers and operators in: by `Authorization: Bearer TOKEN` (RFC 6750), by Basic (RFC 7617) with the token as
// password and its name or nothing as user, by an operator's session, or by open access. A token in the URL does not count.
// Where the route has a parameter feed, a reader's token has to be for that feed.
func (a *Access) Reader() gin.HandlerFunc {
	return webserver.HandleLong(func(c *gin.Context) error {
		has, err := claimOf(c)
		switch {
		case has.Role >= Reader:
		case err != nil:
			return err
		default:
			return a.unauthorized(has, a.both, "This needs a token: as Bearer, or as the password of Basic.")
		}
		if feed := c.Param("feed"); has.token != nil && feed != "" && !has.token.mayRead(feed) {
			return web.Errorf(http.StatusForbidden, "The token of %s is not for this feed.", has.Name)
		}
		bind(c, has)
		return nil
	})
}

// Operator lets operators in: by `Authorization: Bearer TOKEN`, by a session, or by open access. Browsers are led to the login, and
// back; what a form has sent when the session had ended can be sent again then.
func (a *Access) Operator() gin.HandlerFunc {
	return webserver.HandleLong(func(c *gin.Context) error {
		has, err := claimOf(c)
		switch {
		case has.Role == Operator:
			if has.token != nil {
				c.Header("Cache-Control", "private, no-cache") // unless the handler says something else
			}
			bind(c, has)
			return nil
		case err != nil:
			return err
		case byBrowser(c):
			return a.leadToLogin(c)
		case has.Role == Reader:
			return web.Errorf(http.StatusForbidden, "The token of %s is a reader's. This needs an operator's, as Bearer.", has.Name)
		}
		return a.unauthorized(has, a.bearer, "This needs an operator's token, as Bearer.")
	})
}

// bind ends the request with its session or its token, if it waits then. Open access costs nothing.
func bind(c *gin.Context, has *claim) {
	if has.token == nil {
		return
	}
	ending := has.token.ending
	if k := broughtBy(c).cookie; k != nil && k.found == has {
		ending = k.access.live.ending(k.id, has.token.hash)
	}
	c.Request = ending.Bind(c.Request)
}

// byBrowser reports whether a person may log in: a page is asked for, and not by a program that has a token.
func byBrowser(c *gin.Context) bool {
	scheme, _, _ := strings.Cut(c.GetHeader("Authorization"), " ")
	return web.PrefersHTML(c.Request) && !strings.EqualFold(scheme, "Bearer")
}

func (a *Access) unauthorized(has *claim, challenge []string, needs string) *web.Problem {
	p := web.Errorf(http.StatusUnauthorized, "%s", needs)
	if has.invalid {
		p.Detail = "The token is not valid here."
		challenge = append([]string{challenge[0] + `, error="invalid_token"`}, challenge[1:]...)
	}
	p.Header = http.Header{"Www-Authenticate": challenge}
	return p
}

// localPath reports whether a redirect to s stays on this server: s is a path, maybe with a query, as browsers understand it, too.
func localPath(s string) bool {
	if len(s) > maxPath || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil
}
