package buyer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

const (
	handoverTime = time.Minute      // from the page of one app to the other app
	signInTime   = 30 * time.Minute // to sign up, or to find the link in the mail
)

// A Handover tells one app what the other knows of a browser. It is valid once, for a minute, at the app that it names,
// and only from a page of the other app.
type Handover struct {
	ID       uuid.UUID `json:"id"`
	Nonce    []byte    `json:"nonce,omitzero"`    // SHA-256 of the nonce in a cookie of the browser that began to sign in at sales
	Customer uuid.UUID `json:"customer,omitzero"` // to sales: the customer that has signed in
	Since    int64     `json:"since,omitzero"`    // to sales: of the customer's credential
	News     bool      `json:"news,omitzero"`     // to sales: reports Since, and does not sign in a browser that is not signed in as the customer
	SignOut  [][]byte  `json:"sign_out,omitzero"` // the browser has signed out: the digests of [Side.Paired]

	Visitor uuid.UUID `json:"visitor,omitzero"` // the visitor that the browser was when it began; sent to customers, whose answer does not repeat it
	Next    string    `json:"-"`                // the path at sales to return to; not sent, since the browser has it
}

// begun is the content of the cookie that sales gives a browser when it begins to sign in.
type begun struct {
	Nonce   string    `json:"nonce"`
	Visitor uuid.UUID `json:"visitor,omitzero"`
	Next    string    `json:"next,omitzero"`
}

// Began is what customers remembers of a browser that began to sign in at sales: the nonce's digest and the visitor.
type Began struct {
	Nonce   []byte    `json:"nonce"`
	Visitor uuid.UUID `json:"visitor,omitzero"`
}

// A Page is the text of a hand-over's page, for browsers that run no scripts.
type Page struct{ Title, Text, Button string }

//go:embed handover.html
var pages embed.FS

var handoverPage = web.Template(pages, "handover.html")

func audience(app App) string { return "handover_to_" + string(app) }

// Send answers with a page that posts the hand-over to the other app. Where scripts run, the page does so by itself.
func (s *Side) Send(c *gin.Context, h Handover, service string, nav []web.Link, page Page) error {
	h.ID = uuid.New()
	signed, err := s.sign(audience(s.other), h)
	if err != nil {
		return fmt.Errorf("sign a hand-over: %w", err)
	}
	web.FormsMayLeadTo(c.Writer.Header(), s.otherURL.Origin())
	c.Header("Referrer-Policy", "strict-origin") // with same-origin, the form's Origin would be null
	c.Header("Cache-Control", "no-store")
	webserver.Render(c, http.StatusOK, handoverPage, web.Page{Service: service, Title: page.Title, Nav: nav, Data: struct {
		Page
		URL   web.Site
		Value string
	}{page, s.otherURL, signed}})
	return nil
}

// Route adds the route to which pages of the other app post hand-overs.
func (s *Side) Route(r gin.IRoutes, h func(c *gin.Context, got Handover) error) {
	webserver.PostFrom(r, "/handover", s.otherURL.Origin(), webserver.Handle(func(c *gin.Context) error {
		got, err := s.receive(c)
		if err != nil {
			return err
		}
		c.Header("Cache-Control", "no-store")
		return h(c, got)
	}))
}

func (s *Side) receive(c *gin.Context) (got Handover, err error) {
	var body struct {
		Handover string `json:"handover"`
	}
	form, err := source.ReadBody(c, &body, "a hand-over")
	if err != nil {
		return got, err
	}
	if form != nil {
		body.Handover = form.Get("handover")
	}
	if s.codec(handoverTime).MinAge(-int(maxSkew.Seconds())).Decode(audience(s.app), body.Handover, &got) != nil {
		return got, s.failed("It has expired, or was not made by this company.")
	}
	if ended, err := s.ended(c.Request.Context(), Buyer{Customer: got.Customer, Since: got.Since}); err != nil {
		return got, err
	} else if ended {
		return got, s.failed("The e-mail address of the account has been confirmed since then.")
	}
	if s.app == Sales && got.SignOut == nil && !got.News {
		var b begun
		err := s.read(c, begunCookie, signInTime+handoverTime, &b)
		if digest := sha256.Sum256([]byte(b.Nonce)); err != nil || subtle.ConstantTimeCompare(digest[:], got.Nonce) != 1 {
			return got, s.failed("It began in another browser, or too long ago.")
		}
		got.Visitor, got.Next = b.Visitor, b.Next
	}
	if got.SignOut != nil {
		common := func(digest []byte) bool {
			return slices.ContainsFunc(got.SignOut, func(ended []byte) bool { return subtle.ConstantTimeCompare(digest, ended) == 1 })
		}
		if paired := s.Paired(c); paired != nil && !slices.ContainsFunc(paired, common) {
			return got, s.failed("It began in another browser.")
		}
	}
	if first, err := s.use(c.Request.Context(), got.ID); err != nil {
		return got, err
	} else if !first {
		return got, s.failed("It was used already.")
	}
	return got, nil
}

func (s *Side) failed(why string) error {
	shop, url := "the shop", string(s.otherURL)+"/"
	if s.app == Customers {
		shop += ", " + url + ","
	}
	return &web.Problem{
		Status: http.StatusForbidden, Title: "This sign-in or sign-out has expired", Links: []string{url},
		Detail: why + " Nothing has changed. Go to " + shop + " and try again there.",
	}
}

func (s *Side) use(ctx context.Context, id uuid.UUID) (first bool, err error) {
	tag, err := s.pool.Exec(ctx, `
		with expired as (delete from handover where used_at < now() - 2 * $2::interval)
		insert into handover (id) values ($1) on conflict do nothing`, id, handoverTime)
	if err != nil {
		return false, fmt.Errorf("use a hand-over: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// Begin starts a sign-in at sales that returns to the path next, and returns what is handed over.
func (s *Side) Begin(c *gin.Context, visitor uuid.UUID, next string) (Handover, error) {
	b := begun{rand.Text(), visitor, next}
	digest := sha256.Sum256([]byte(b.Nonce))
	return Handover{Nonce: digest[:], Visitor: visitor}, s.write(c, begunCookie, signInTime+handoverTime, b, withHandovers(c))
}

// Remember stores at customers that the browser began to sign in at sales.
func (s *Side) Remember(c *gin.Context, got Handover) error {
	return s.write(c, begunCookie, signInTime, Began{got.Nonce, got.Visitor}, http.SameSiteLaxMode)
}

// Remembered returns what [Side.Remember] stored, or nil.
func (s *Side) Remembered(c *gin.Context) (b *Began) {
	if s.read(c, begunCookie, signInTime, &b) != nil {
		return nil
	}
	return b
}

// Hear stores news of a customer for the request to which the browser is redirected: a POST from another site carries
// no buyer's cookie.
func (s *Side) Hear(c *gin.Context, news Buyer) error {
	return s.write(c, newsCookie, handoverTime, news, http.SameSiteLaxMode)
}

// Heard returns the news that [Side.Hear] stored, and removes them, or returns nil.
func (s *Side) Heard(c *gin.Context) (news *Buyer) {
	if s.read(c, newsCookie, handoverTime, &news) != nil {
		return nil
	}
	s.delete(c, newsCookie)
	return news
}

// withHandovers is the SameSite of cookies that have to come along with a POST from a page of the other app, which may
// be of another site.
func withHandovers(c *gin.Context) http.SameSite {
	if webserver.HTTPS(c) {
		return http.SameSiteNoneMode
	}
	return http.SameSiteLaxMode
}

const maxPaired = 8 // sign-ins of a browser that customers has completed, and that did not come back to sales

// Pair ends the sign-in that the browser has begun, and adds the digest of its nonce to [Side.Paired]. The earlier ones
// stay: the browser may never come to sales with the new one.
func (s *Side) Pair(c *gin.Context, nonce []byte) error {
	s.delete(c, begunCookie)
	all := append([][]byte{nonce}, s.Paired(c)...)
	return s.write(c, pairCookie, cookieTime, all[:min(len(all), maxPaired)], withHandovers(c))
}

// Paired returns the digests that [Side.Pair] stored since the browser last signed out, or nil.
func (s *Side) Paired(c *gin.Context) (nonces [][]byte) {
	if s.read(c, pairCookie, cookieTime, &nonces) != nil {
		return nil
	}
	return nonces
}
