package customers

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/mail"
	"text/template"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	gomail "github.com/wneessen/go-mail"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	linkTime   = 30 * time.Minute
	linkPrefix = "datafeed_signin_" // logs leave out what begins so
	maxLinks   = 5                  // in a mail: accounts may have the same address
	mailTime   = time.Minute
	maxPause   = time.Second // from a request to its mails at most
	maxMailing = 8           // mails at once
	maxWaiting = 1000        // of those that wait for that; what is more is not sent

	// A mail costs units of which there is one a second, and an hour's at once.
	hour        = 3600
	ofAddress   = hour / 5  // mails to an address
	ofClient    = hour / 20 // requests of a client
	ofSigningUp = hour / 60 // sign-ups of a client
)

// links are what signs in elsewhere: sent by mail, good for half an hour, once.
type links struct {
	pool      *pgxpool.Pool
	accounts  store
	mail      smtp.Settings
	publicURL string
	logger    *slog.Logger
	waiting   chan struct{} // has something in it for each mail that is to be sent
	mailing   chan struct{} // for each that is being sent

	clients, signingUps *web.Limiter // requests and sign-ups of a client
	addresses           *web.Limiter // mails to an address that is confirmed: those to no other address count
	mailboxes, welcomes *web.Limiter // mails to a mailbox by addresses that are not, for requests and for sign-ups
}

func newLinks(s Settings, accounts store, logger *slog.Logger) *links {
	limiter := func() *web.Limiter { return web.NewLimiter(1, hour) }
	return &links{
		accounts.pool, accounts, s.Mail, string(s.PublicURL), logger, make(chan struct{}, maxMailing+maxWaiting), make(chan struct{}, maxMailing),
		limiter(), limiter(), limiter(), limiter(), limiter(),
	}
}

// standing is the condition on a link that it has not expired. One that expires later than a link that is sent now was sent by a
// clock that was wrong.
const standing = `expires_at > now() and expires_at <= now() + $2::interval + interval '1 minute'`

// sends reports whether there is a mail server.
func (l *links) sends() bool { return l.mail.Server.String() != "" }

var (
	errNoMails = web.Errorf(http.StatusServiceUnavailable, "No mails are sent here. Sign in with the browser that signed up, or use the token that the API gave.")
	errNoLink  = &web.Problem{
		Status: http.StatusNotFound, Title: "This link does not work any more",
		Detail: "It works once, for half an hour, and only for the address that it was sent to. Go to the start page and ask for another one.",
	}
)

// request mails, in the background, a link for each account with the address, to the address as the account has it. The
// answer does not tell whether there is one, nor does its time: the mails come a random pause later, and take no
// processor from it. Only A to Z are the same as a to z, whatever the locale of
// the database: another letter may lower to one of them, and be part of somebody else's domain.
func (l *links) request(c *gin.Context, email string) error {
	if err := l.clients.Check(c.Request, ofClient); err != nil {
		return err
	}
	l.send(c.Request.Context(), email, false, `lower(email collate "C") = lower($1 collate "C") and $2::uuid is null`, nil, maxPause/10+mathrand.N(maxPause*9/10))
	return nil
}

// welcome mails, in the background, a link that confirms the address of an account that has just signed up.
func (l *links) welcome(c *gin.Context, p *customer.Customer) {
	if l.sends() && l.signingUps.Check(c.Request, ofSigningUp) == nil {
		l.send(c.Request.Context(), p.Email, true, `email = $1 and id = $2`, &p.ID, 0)
	}
}

// send mails links, in the background after a pause, to the accounts that the condition holds for.
func (l *links) send(ctx context.Context, email string, welcome bool, condition string, id *uuid.UUID, pause time.Duration) {
	select {
	case l.waiting <- struct{}{}:
	default:
		l.logger.WarnContext(ctx, "sign-in mail not sent: too many wait")
		return
	}
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer func() { <-l.waiting }()
		time.Sleep(pause)
		l.mailing <- struct{}{}
		defer func() { <-l.mailing }()
		ctx, cancel := context.WithTimeout(ctx, mailTime)
		defer cancel()
		if err := l.deliver(ctx, email, welcome, condition, id); err != nil {
			l.logger.WarnContext(ctx, "sign-in mail not sent", "error", err)
		}
	}()
}

// A holder is an account that gets a link.
type holder struct {
	ID        uuid.UUID
	Email     string
	Confirmed bool
	SignedUp  time.Time
}

func (l *links) deliver(ctx context.Context, email string, welcome bool, condition string, id *uuid.UUID) error {
	rows, err := l.pool.Query(ctx, `select id, email, email_confirmed, created_at from customer where `+condition+`
		order by email_confirmed desc, id desc limit `+fmt.Sprint(maxLinks), email, id) // no sign-ups of others hide a confirmed account
	if err != nil {
		return err
	}
	holders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[holder])
	if err == nil {
		holders, err = l.present(ctx, holders)
	}
	if err != nil || len(holders) == 0 {
		return err
	}
	session, err := l.mail.Dial(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	byAddress := map[string][]holder{}
	for _, h := range holders {
		byAddress[h.Email] = append(byAddress[h.Email], h)
	}
	for address, of := range byAddress {
		if l.allow(address, of[0].Confirmed, welcome) {
			err = errors.Join(err, l.sendTo(ctx, session, address, of, welcome))
		}
	}
	return err
}

// present returns the holders without those who were erased, whom a restored table may have brought back.
func (l *links) present(ctx context.Context, holders []holder) (present []holder, err error) {
	for _, h := range holders {
		switch _, err := l.accounts.get(ctx, h.ID); {
		case err == nil:
			present = append(present, h)
		case !errors.Is(gone(err), errNoCustomer):
			return nil, err
		}
	}
	return present, nil
}

// allow reports whether one more mail may go to the address of accounts, and counts it.
func (l *links) allow(address string, confirmed, welcome bool) bool {
	limiter, key := l.mailboxes, smtp.Mailbox(address)
	switch {
	case welcome:
		limiter = l.welcomes
	case confirmed:
		limiter, key = l.addresses, address
	}
	_, ok := limiter.Allow(key, ofAddress)
	return ok
}

type link struct {
	Account  string // enough of its id
	SignedUp time.Time
	URL      string
}

var mailText = template.Must(template.ParseFS(pages, "signin.txt"))

// sendTo mails a link for each of the accounts to the address that they have.
func (l *links) sendTo(ctx context.Context, session *smtp.Session, address string, holders []holder, welcome bool) error {
	var view struct {
		Welcome  bool
		Unproven bool // somebody else may have signed up with the address
		Links    []link
	}
	view.Welcome = welcome
	batch := &pgx.Batch{}
	batch.Queue(`delete from sign_in_link where expires_at < now() or expires_at > now() + interval '1 hour'`)
	for _, h := range holders {
		view.Unproven = view.Unproven || !h.Confirmed
		secret := linkPrefix + rand.Text()
		hash := sha256.Sum256([]byte(secret))
		batch.Queue(`insert into sign_in_link (hash, customer_id, email, expires_at)
			select $1, id, email, now() + $4::interval from customer where id = $2 and email = $3`, hash[:], h.ID, address, linkTime)
		view.Links = append(view.Links, link{source.Short(h.ID), h.SignedUp.UTC(), l.publicURL + "/signin/" + secret})
	}
	if err := l.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("keep the links: %w", err)
	}
	var text bytes.Buffer
	if err := mailText.Execute(&text, view); err != nil {
		return err
	}
	to, err := smtp.Address(address)
	if err != nil {
		return err
	}
	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	m.FromMailAddress((*mail.Address)(&l.mail.From))
	m.ToMailAddress(&mail.Address{Address: to}) // nobody has confirmed the name
	m.Subject("Sign in at Edison Cars")
	if welcome {
		m.Subject("Your account at Edison Cars")
	}
	m.SetDate()
	m.SetMessageIDWithValue("signin-" + uuid.NewString() + "@edison-cars.example")
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834 section 5
	m.SetBodyString(gomail.TypeTextPlain, text.String())
	if _, err = session.Send(m, nil); err != nil {
		if refusal, ok := errors.AsType[*smtp.Refusal](err); ok { // its text may name the recipient
			err = errors.New(refusal.Short())
		}
	}
	return err
}

// find returns the account of a link and the address that it was sent to, and leaves the link as it is.
func (l *links) find(ctx context.Context, secret string) (id uuid.UUID, email string, err error) {
	hash := sha256.Sum256([]byte(secret))
	err = l.pool.QueryRow(ctx, `select customer_id, email from sign_in_link where hash = $1 and `+standing, hash[:], linkTime).Scan(&id, &email)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errNoLink
	}
	return id, email, err
}

// deleteLink leaves alone the link to an address that the account has no more: its holder gets no credential that is good
// since another address was confirmed.
const deleteLink = `delete from sign_in_link using customer
	where hash = $1 and customer.id = customer_id and customer.email = sign_in_link.email and ` + standing

// use uses a link up.
func (l *links) use(ctx context.Context, secret string) error {
	hash := sha256.Sum256([]byte(secret))
	tag, err := l.pool.Exec(ctx, deleteLink, hash[:], linkTime)
	if err == nil && tag.RowsAffected() == 0 {
		return errNoLink
	}
	return err
}

// useBy uses a link up by a change, which fails with [publish.ErrGuard] if the link is gone.
func (l *links) useBy(change *publish.Change, secret string) {
	hash := sha256.Sum256([]byte(secret))
	change.Exec(`with used as (`+deleteLink+` returning 1) select feed_guard(count(*) = 1) from used`, hash[:], linkTime)
}
