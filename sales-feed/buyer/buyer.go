// Package buyer holds the credentials of buyers, which tell sales and customers whose an order or an account is: a
// signed cookie in the browser, or a signed token of the API. Both apps sign with one key. A signed value hands a
// browser that signs in at customers over to sales: see [Side.Send].
package buyer

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/gorilla/securecookie"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

const (
	cookieTime = 365 * 24 * time.Hour
	prefix     = "datafeed_buyer_" // of tokens; logs redact values that begin with it

	repeatTime = time.Hour
	maxSkew    = time.Minute // tolerated between the clocks of two machines; a later time was written by a wrong clock
)

// Repeats reports whether a repeated answer, first given at t, brings the buyer's credential again: for an hour.
func Repeats(t time.Time) bool {
	age := time.Since(t)
	return age > -maxSkew && age < repeatTime
}

// A Buyer is the identity with which a browser or an API client buys. The zero Buyer has none.
type Buyer struct {
	Customer uuid.UUID `json:"customer,omitzero"` // an account of the customers app; Nil: not signed in
	// Since is when the account's e-mail address was confirmed, in Unix microseconds; 0: it was not. A later
	// confirmation ends the credential.
	Since int64 `json:"since,omitzero"`
	// Visitor is an id of the sales app, which becomes the customer's if the visitor signs up. A browser that signs in
	// to another account keeps it.
	Visitor uuid.UUID `json:"visitor,omitzero"`
}

// ID returns the id that an order of the buyer carries, or Nil if the buyer has no identity.
func (b Buyer) ID() uuid.UUID {
	if b.Customer != uuid.Nil {
		return b.Customer
	}
	return b.Visitor
}

// Owns reports whether orders or accounts with the id belong to the buyer.
func (b Buyer) Owns(id uuid.UUID) bool {
	return id != uuid.Nil && (id == b.Customer || id == b.Visitor)
}

// A Party is the sender of a request: a buyer, an operator, both or neither.
type Party struct {
	Buyer
	Operator bool
	Ended    uuid.UUID // the customer, or else the visitor, of a cookie that has ended, see ErrEnded; else Nil
	Unknown  error     // why Operator could not be determined: the session cannot be looked up; else nil
	reader   bool      // the request has a feed reader's token, which is no buyer's credential
}

// Refusal returns err, which refuses a request of a sender that is no operator, or Unknown if the sender may be one.
func (p Party) Refusal(err error) error { return cmp.Or(p.Unknown, err) }

func (p Party) nobody() bool { return p.Buyer == Buyer{} && !p.Operator }

func (p Party) refusedAsNobody(err error) error {
	if p.reader {
		err = errReader
	}
	return p.Refusal(err)
}

// An App is one of the two that accept buyers' credentials.
type App string

// The two apps.
const (
	Sales     App = "sales"
	Customers App = "customers"
)

// A Side is one app's half of the exchange of credentials.
type Side struct {
	app, other App
	otherURL   web.Site
	pool       *pgxpool.Pool // with the table handover
	key        []byte
}

// New returns the side of app. otherURL is the address of the other app for browsers. By default the key is a file in
// dataDir.
func New(app App, otherURL web.Site, s Settings, dataDir string, pool *pgxpool.Pool) (*Side, error) {
	key, err := s.key(dataDir)
	if err != nil {
		return nil, err
	}
	other := Sales
	if app == Sales {
		other = Customers
	}
	return &Side{app, other, otherURL, pool, []byte(key)}, nil
}

// codec returns a codec that signs values for one purpose. Values of another purpose, or older than maxAge (0: no
// limit), do not verify.
func (s *Side) codec(maxAge time.Duration) *securecookie.SecureCookie {
	return securecookie.New(s.key, nil).SetSerializer(securecookie.JSONEncoder{}).MaxAge(int(maxAge.Seconds()))
}

func (s *Side) sign(purpose string, value any) (string, error) {
	return s.codec(0).Encode(purpose, value)
}

const tokenPurpose = "buyer_token"

// Token returns the secret that identifies the buyer to the API.
func (s *Side) Token(b Buyer) (string, error) {
	signed, err := s.sign(tokenPurpose, b)
	return prefix + signed, err
}

// Of returns the sender of a request: the buyer of its token, or else of its cookie. It refuses an invalid or ended
// token with 401. An ended cookie still identifies its visitor.
func (s *Side) Of(c *gin.Context) (Party, error) {
	identity, err := access.Look(c)
	p := Party{Operator: identity.Role >= access.Operator, Unknown: err}
	scheme, token, _ := strings.Cut(c.GetHeader("Authorization"), " ")
	p.reader = identity.Role == access.Reader && (strings.EqualFold(scheme, "Bearer") || !web.PrefersHTML(c.Request)) // browsers are led to the login
	signed, ours := strings.CutPrefix(token, prefix)
	if strings.EqualFold(scheme, "Bearer") && (ours || identity.Role == access.Nobody) {
		if !ours && err != nil {
			return Party{}, err
		}
		if !ours || s.codec(0).Decode(tokenPurpose, signed, &p.Buyer) != nil {
			return Party{}, unauthorized("The token is not valid: send the buyer's token as Authorization: Bearer, or none.")
		}
		if err := s.withoutEnded(c.Request.Context(), &p); err != nil {
			return Party{}, err
		}
		if p.Ended != uuid.Nil {
			return Party{}, ErrEnded
		}
		return p, nil
	}
	if s.read(c, buyerCookie, cookieTime, &p.Buyer) != nil {
		p.Buyer = Buyer{}
	}
	err = s.withoutEnded(c.Request.Context(), &p)
	return p, err
}

// withoutEnded takes from the party what has ended of its credential.
func (s *Side) withoutEnded(ctx context.Context, p *Party) error {
	ended, err := s.ended(ctx, p.Buyer)
	if ended {
		p.Ended, p.Buyer = p.Customer, Buyer{Visitor: p.Visitor}
	}
	if err != nil || s.app == Customers {
		return err
	}
	if ended, err = s.hasSignedUp(ctx, p.Visitor); ended {
		if p.Customer == uuid.Nil {
			p.Ended = cmp.Or(p.Ended, p.Visitor)
		}
		p.Visitor = uuid.Nil
	}
	return err
}

// Require is like Of, and returns [ErrNobody] if the request has no credential.
func (s *Side) Require(c *gin.Context) (Party, error) {
	p, err := s.Of(c)
	if err == nil && p.nobody() {
		err = p.refusedAsNobody(ErrNobody)
	}
	return p, err
}

var (
	// ErrNobody refuses a request without a credential. It does not reveal whether the order or account exists.
	ErrNobody = unauthorized("Only its buyer may see this: use the browser that bought or signed up, sign in, or send the buyer's token as Authorization: Bearer. Operators log in at /login.")
	errReader = web.Errorf(http.StatusForbidden, "The token is a feed reader's. This needs the buyer's or an operator's token as Authorization: Bearer.")
	// ErrOperator refuses an operator's request for something that only a buyer may do.
	ErrOperator = web.Errorf(http.StatusForbidden, "Only its buyer may do this, not an operator. Nothing was changed.")
)

// ErrNamed returns the refusal of an order that names a customer without that customer's credential.
func (p Party) ErrNamed() error {
	if p.nobody() {
		return p.refusedAsNobody(unauthorized("To buy as this customer, send the customer's token as Authorization: Bearer. Leave out customer_id to buy as a guest. Nothing was bought."))
	}
	return p.Refusal(web.Errorf(http.StatusForbidden, "The credential is another buyer's. Leave out customer_id to buy as that buyer. Nothing was bought."))
}

func unauthorized(detail string) error {
	p := web.Errorf(http.StatusUnauthorized, "%s", detail)
	p.Header = http.Header{"Www-Authenticate": {`Bearer realm="buyers"`}}
	return p
}

// cookie returns the name of a cookie of the app. Cookies ignore ports, so on one host each app also receives the other
// app's.
func (s *Side) cookie(kind string) string { return string(s.app) + "_" + kind }

// The kinds of cookies.
const (
	buyerCookie = "buyer"
	begunCookie = "handover" // for a sign-in that has begun: at sales the nonce, at customers its digest
	newsCookie  = "news"     // that a browser has brought
	// The digests of the nonces of sign-ins at one app for the other, so that a sign-out ends only what the same
	// browser has at the other app.
	pairCookie = "pair"
)

// Keep makes the browser the buyer's from now on.
func (s *Side) Keep(c *gin.Context, b Buyer) error {
	return s.write(c, buyerCookie, cookieTime, b, http.SameSiteLaxMode)
}

// Forget signs the browser out, and ends a hand-over that it has begun. What it has at the other app can still be ended
// by [Side.SignOut].
func (s *Side) Forget(c *gin.Context) {
	s.delete(c, buyerCookie)
	s.delete(c, begunCookie)
}

// SignOut is [Side.Forget], and returns what a hand-over needs to sign the same browser out at the other app, or nil if
// it did not sign in there and here.
func (s *Side) SignOut(c *gin.Context) (paired [][]byte) {
	paired = s.Paired(c)
	s.Forget(c)
	s.delete(c, pairCookie)
	return paired
}

func (s *Side) delete(c *gin.Context, kind string) {
	set(c, s.cookie(kind), "", -time.Second, http.SameSiteLaxMode)
}

func (s *Side) write(c *gin.Context, kind string, maxAge time.Duration, value any, sameSite http.SameSite) error {
	name := s.cookie(kind)
	signed, err := s.sign(name, value)
	if err != nil {
		return fmt.Errorf("sign a cookie: %w", err)
	}
	set(c, name, signed, maxAge, sameSite)
	return nil
}

func (s *Side) read(c *gin.Context, kind string, maxAge time.Duration, into any) error {
	name := s.cookie(kind)
	cookie, err := c.Request.Cookie(onWire(c, name))
	if err != nil {
		return err
	}
	return s.codec(maxAge).Decode(name, cookie.Value, into)
}

// onWire returns the name of a cookie as browsers store it. The prefix keeps other hosts of the same domain, and pages
// without TLS, from setting another buyer's cookie, which would show that buyer what the browser buys.
func onWire(c *gin.Context, name string) string {
	if webserver.HTTPS(c) {
		return "__Host-" + name
	}
	return name
}

func set(c *gin.Context, name, value string, maxAge time.Duration, sameSite http.SameSite) {
	http.SetCookie(c.Writer, &http.Cookie{
		Name: onWire(c, name), Value: value, Path: "/", MaxAge: int(maxAge.Seconds()), HttpOnly: true, Secure: webserver.HTTPS(c), SameSite: sameSite,
	})
}
