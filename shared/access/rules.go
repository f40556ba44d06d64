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

type claim struct {
	Identity
	token   *token  // of the Identity, or nil
	invalid bool    // the request has an invalid token
	cookie  *cookie // or nil. A valid session takes precedence.
}

// Claims without any data of a request.
var (
	nothing      = &claim{}
	invalidToken = &claim{invalid: true}
	openAccess   = &claim{Identity: Identity{Role: Operator}}
)

// A cookie is a session's cookie. The session is looked up at most once, when the request needs it.
type cookie struct {
	access *Access
	id     sum
	looked bool
	found  *claim
	err    error
}

type claimKey struct{}

func broughtBy(c *gin.Context) *claim {
	value, _ := c.Get(claimKey{})
	if brought, ok := value.(*claim); ok {
		return brought
	}
	return nothing
}

// claimOf returns the valid credentials of a request. If the session cannot be looked up, it returns the others and an
// error.
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
			webserver.Unstored(c) // Back does not show the answer after the logout
		}
	}
	if k.found != nil {
		return k.found, nil
	}
	return brought, k.err
}

// session returns the claim of a session, or nil if the session does not exist or has ended.
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

func (a *Access) operator(hash sum) *token {
	if known := a.tokens.Load().byHash[hash]; known != nil && known.Role == Operator {
		return known
	}
	return nil
}

// Identify is middleware that answers requests for other hosts with 421, and prepares the identity for [Of].
func (a *Access) Identify() gin.HandlerFunc { return webserver.HandleLong(a.identify) }

func (a *Access) identify(c *gin.Context) error {
	req := c.Request
	if path := c.FullPath(); path == "/livez" || path == "/readyz" {
		return nil
	}
	if !a.ours(req.Host) {
		return web.Errorf(http.StatusMisdirectedRequest, "This server does not serve %.100q. Besides PUBLIC_URL's host and localhost it serves those in HOSTS.", req.Host)
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

func loggedIn(c *gin.Context) string {
	if k := broughtBy(c).cookie; k != nil {
		if _, _ = claimOf(c); k.found != nil {
			return k.found.Name
		}
	}
	return ""
}

// claim returns the credentials of a request except its session. A token takes precedence over open access, even an
// invalid one.
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

// Reader is middleware that admits readers and operators: by `Authorization: Bearer TOKEN` (RFC 6750), by Basic (RFC
// 7617) with the token as password and its name or nothing as user, by an operator's session, or by open access. Tokens
// in URLs are ignored. If the route has a parameter feed, a reader's token must be granted that feed, or the view that the parameter view
// names.
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
		if feed := c.Param("feed"); has.token != nil && feed != "" && !has.token.mayRead(feed, c.Param("view")) {
			return web.Errorf(http.StatusForbidden, "The token of %s is not for this feed.", has.Name)
		}
		bind(c, has)
		return nil
	})
}

// Operator is middleware that admits operators: by `Authorization: Bearer TOKEN`, by a session, or by open access. It
// sends browsers to the login and back. A form that was sent after the session had ended can be sent again then.
func (a *Access) Operator() gin.HandlerFunc {
	return webserver.HandleLong(func(c *gin.Context) error {
		has, err := claimOf(c)
		switch {
		case has.Role == Operator:
			if has.token != nil {
				c.Header("Cache-Control", "private, no-cache") // the handler may set another one
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

// bind ends a waiting request when its session or token ends. Open access needs none of this.
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

// byBrowser reports whether the request can lead to a login: it asks for a page, and has no token.
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

// localPath reports whether a redirect to s stays on this server: s is a path, optionally with a query, also in the way
// browsers parse it.
func localPath(s string) bool {
	if len(s) > maxPath || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return false
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil
}
