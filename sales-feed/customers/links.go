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
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	gomail "github.com/wneessen/go-mail"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/smtp"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

const (
	linkTime   = 30 * time.Minute
	linkPrefix = "datafeed_signin_" // logs redact values that begin with it
	maxLinks   = 5                  // in one mail, since accounts may share an address
	mailTime   = time.Minute
	maxPause   = time.Second // from a request to its mails
	maxMailing = 8           // mails that are sent at the same time
	maxWaiting = 1000        // mails that wait to be sent; further ones are dropped

	// An address gets five mails an hour, of each kind. They are counted in the database, for all replicas.
	perAddress = time.Hour / 5

	// A client's request costs some of a budget that grows by one unit a second, up to an hour's.
	hour        = 3600
	ofClient    = hour / 20 // requests of one client
	ofSigningUp = hour / 60 // sign-ups of one client
)

// links signs buyers in elsewhere: by links that are mailed, and valid once, for half an hour.
type links struct {
	pool      *pgxpool.Pool
	accounts  store
	mail      smtp.Settings
	publicURL string
	logger    *slog.Logger
	waiting   chan struct{} // has an element for each mail that waits
	mailing   chan struct{} // has an element for each mail that is being sent

	clients, signingUps *web.Limiter // by client
}

func newLinks(s Settings, accounts store, logger *slog.Logger) *links {
	limiter := func() *web.Limiter { return web.NewLimiter(1, hour) }
	return &links{
		accounts.pool, accounts, s.Mail, string(s.PublicURL), logger, make(chan struct{}, maxMailing+maxWaiting), make(chan struct{}, maxMailing),
		limiter(), limiter(),
	}
}

// standing is the condition that a link has not expired. A link that expires later than one sent now was sent by a
// wrong clock.
const standing = `expires_at > now() and expires_at <= now() + $2::interval + interval '1 minute'`

func (l *links) sends() bool { return l.mail.Server.String() != "" }

var (
	errNoMails = web.Errorf(http.StatusServiceUnavailable, "This shop sends no e-mail. Sign in with the browser in which you signed up, or use the token that the API returned.")
	errNoLink  = &web.Problem{
		Status: http.StatusNotFound, Title: "This link is no longer valid",
		Detail: "A link works once, within half an hour, and only for the address to which it was sent. Go to the start page and request another one.",
	}
)

// request mails a link for each account with the address, in the background. Neither the answer nor its time reveals
// whether there is one: the mails follow after a random pause, and are made apart from the answer. Only A to Z equal a
// to z, whatever the locale of the database: another letter may lower to one of them, and belong to a stranger's
// domain.
func (l *links) request(c *gin.Context, email string) error {
	if err := l.clients.Check(c.Request, ofClient); err != nil {
		return err
	}
	l.send(c.Request.Context(), email, false, `lower(email collate "C") = lower($1 collate "C") and $2::uuid is null`, nil, maxPause/10+mathrand.N(maxPause*9/10))
	return nil
}

// welcome mails a link that confirms the address of a new account, in the background.
func (l *links) welcome(c *gin.Context, p *customer.Customer) {
	if l.sends() && l.signingUps.Check(c.Request, ofSigningUp) == nil {
		l.send(c.Request.Context(), p.Email, true, `email = $1 and id = $2`, &p.ID, 0)
	}
}

// send mails links to the accounts that meet the condition, in the background after a pause.
func (l *links) send(ctx context.Context, email string, welcome bool, condition string, id *uuid.UUID, pause time.Duration) {
	select {
	case l.waiting <- struct{}{}:
	default:
		l.logger.WarnContext(ctx, "sign-in mail dropped: too many are waiting")
		return
	}
	webserver.Background(ctx, func(ctx context.Context) {
		defer func() { <-l.waiting }()
		select {
		case <-time.After(pause):
		case <-web.Stopping(ctx):
		}
		if err := l.deliverNext(ctx, email, welcome, condition, id); err != nil {
			l.logger.WarnContext(ctx, "sign-in mail not sent", "error", err)
		}
	})
}

// deliverNext is deliver once fewer than maxMailing mails are being sent.
func (l *links) deliverNext(ctx context.Context, email string, welcome bool, condition string, id *uuid.UUID) error {
	select {
	case l.mailing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.mailing }()
	ctx, cancel := context.WithTimeout(ctx, mailTime)
	defer cancel()
	return l.deliver(ctx, email, welcome, condition, id)
}

type holder struct {
	ID        uuid.UUID
	Email     string
	Confirmed bool
	SignedUp  time.Time
}

func (l *links) deliver(ctx context.Context, email string, welcome bool, condition string, id *uuid.UUID) error {
	rows, _ := l.pool.Query(ctx, `select id, email, email_confirmed, created_at from customer where `+condition+`
		order by email_confirmed desc, id desc limit `+fmt.Sprint(maxLinks), email, id) // a stranger's sign-ups do not hide a confirmed account
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
		allowed, err2 := l.allow(ctx, address, of[0].Confirmed, welcome)
		if allowed {
			err2 = l.sendTo(ctx, session, address, of, welcome)
		}
		err = errors.Join(err, err2)
	}
	return err
}

// present returns the holders that were not erased. A restored table may contain erased ones.
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

// sweep deletes the counts that have expired. It skips rows that another transaction has locked.
const sweep = `
	delete from mail_budget where key in (
	       select key from mail_budget where used_until < now() or used_until > now() + interval '2 hours' for update skip locked)`

// allow counts one more mail to the address, and reports whether it may be sent. Mails to unconfirmed addresses are
// counted by mailbox, for requests and for sign-ups apart.
func (l *links) allow(ctx context.Context, address string, confirmed, welcome bool) (bool, error) {
	key := "mailbox " + smtp.Mailbox(address)
	switch {
	case welcome:
		key = "welcome " + smtp.Mailbox(address)
	case confirmed:
		key = "address " + address
	}
	hash := sha256.Sum256([]byte(key))
	// What is used up beyond an hour from now was counted by a wrong clock.
	tag, err := l.pool.Exec(ctx, `
		insert into mail_budget as b (key, used_until) values ($1, now() + $2::interval)
		on conflict (key) do update
		   set used_until = case when b.used_until between now() and now() + interval '1 hour' then b.used_until else now() end + $2::interval
		 where b.used_until <= now() + interval '1 hour' - $2::interval or b.used_until > now() + interval '1 hour'`, hash[:], perAddress)
	if err != nil {
		return false, fmt.Errorf("count the mails to an address: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

type link struct {
	Account  string // the end of its id
	SignedUp time.Time
	URL      string
}

var mailText = template.Must(template.ParseFS(pages, "signin.txt"))

// sendTo mails a link for each of the accounts to their address.
func (l *links) sendTo(ctx context.Context, session *smtp.Session, address string, holders []holder, welcome bool) error {
	var view struct {
		Welcome  bool
		Unproven bool // the account's owner may not be the address's
		Links    []link
	}
	view.Welcome = welcome
	batch := &pgx.Batch{}
	batch.Queue(`delete from sign_in_link where expires_at < now() or expires_at > now() + interval '1 hour'`)
	for _, h := range holders {
		secret := linkPrefix + rand.Text()
		hash := sha256.Sum256([]byte(secret))
		batch.Queue(`insert into sign_in_link (hash, customer_id, email, expires_at)
			select $1, id, email, now() + $4::interval from customer where id = $2 and email = $3`, hash[:], h.ID, address, linkTime).
			Exec(func(done pgconn.CommandTag) error {
				if done.RowsAffected() > 0 {
					view.Unproven = view.Unproven || !h.Confirmed
					view.Links = append(view.Links, link{web.Short(h.ID), h.SignedUp, l.publicURL + "/signin/" + secret})
				}
				return nil
			})
	}
	if err := l.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("keep the links: %w", err)
	}
	if len(view.Links) == 0 { // since the holders were read, they have been deleted or have another address
		return nil
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
	m.ToMailAddress(&mail.Address{Address: to}) // without the name, which is not confirmed
	m.Subject("Sign in at Edison Cars")
	if welcome {
		m.Subject("Your account at Edison Cars")
	}
	m.SetDate()
	m.SetMessageIDWithValue("signin-" + uuid.NewString() + "@edison-cars.example")
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834 section 5
	m.SetBodyString(gomail.TypeTextPlain, text.String())
	if _, err = session.Send(m, nil); err != nil {
		if refusal, ok := errors.AsType[*smtp.Refusal](err); ok { // the refusal's text may contain the recipient
			err = errors.New(refusal.Short())
		}
	}
	return err
}

// find returns the account of a link and the address that it was sent to. The link stays valid.
func (l *links) find(ctx context.Context, secret string) (id uuid.UUID, email string, err error) {
	hash := sha256.Sum256([]byte(secret))
	err = l.pool.QueryRow(ctx, `select customer_id, email from sign_in_link where hash = $1 and `+standing, hash[:], linkTime).Scan(&id, &email)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errNoLink
	}
	return id, email, err
}

// deleteLink deletes a link unless it was sent to an earlier address of the account: such a link must give no
// credential, since it proves nothing about the current address.
const deleteLink = `delete from sign_in_link using customer
	where hash = $1 and customer.id = customer_id and customer.email = sign_in_link.email and ` + standing

func (l *links) use(ctx context.Context, secret string) error {
	hash := sha256.Sum256([]byte(secret))
	tag, err := l.pool.Exec(ctx, deleteLink, hash[:], linkTime)
	if err == nil && tag.RowsAffected() == 0 {
		return errNoLink
	}
	return err
}

// useBy uses a link in a change, which fails with [publish.ErrGuard] if the link is gone.
func (l *links) useBy(change *publish.Change, secret string) {
	hash := sha256.Sum256([]byte(secret))
	change.Exec(`with used as (`+deleteLink+` returning 1) select feed_guard(count(*) = 1) from used`, hash[:], linkTime)
}
