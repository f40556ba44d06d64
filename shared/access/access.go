// Package access authorizes requests by their Host, tokens, sessions and client address.
package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// A Role is a set of rights. Each role includes the rights of the ones before it.
type Role int

// The roles, from the least rights to the most.
const (
	Nobody   Role = iota // no token and no session: health, storefront, sign-up
	Reader               // feeds, by grant, and metrics
	Operator             // everything that shows people or changes something, except what belongs to a buyer
)

// An Identity is the role, and the name of the token, with which a request was sent.
type Identity struct {
	Name string // of the token; "" for Nobody and for open access
	Role Role
}

// Of is like [Look], for handlers that serve everybody: it ignores a session that cannot be looked up.
func Of(c *gin.Context) Identity {
	found, _ := Look(c)
	return found
}

// Look returns the identity of a request, from its token, its session or open access. If the session cannot be looked
// up, it returns the identity without the session, and an error: the request may be an operator's.
func Look(c *gin.Context) (Identity, error) {
	found, err := claimOf(c)
	return found.Identity, err
}

// Settings configure the access to a server.
type Settings struct {
	Access     Mode   `env:"ACCESS" envDefault:"closed" help:"closed, or open: programs and browsers on this machine have an operator's rights without a token"`
	Hosts      Hosts  `env:"HOSTS" help:"names and addresses, beside PUBLIC_URL's and localhost, by which clients reach this server: feeds.example,10.0.0.7"`
	Tokens     Tokens `env:"TOKENS" help:"tokens of readers and operators: NAME:operator:HASH,NAME:reader:HASH,NAME:reader=FEED+FEED:HASH, as sales-feed token prints them; FEED/views/VIEW is a view alone"`
	TokensFile string `env:"TOKENS_FILE" help:"file with such tokens, one per line, # starts a comment; reread within 5 s of a change"`
}

// A Mode sets the rights of clients without a token.
type Mode int

// The modes.
const (
	Closed Mode = iota // no rights
	Open               // an operator's rights on this machine, without a proxy
)

// UnmarshalText reads closed or open.
func (m *Mode) UnmarshalText(text []byte) error {
	switch string(text) {
	case "closed":
		*m = Closed
	case "open":
		*m = Open
	default:
		return errors.New("takes closed or open")
	}
	return nil
}

// Options describe a server.
type Options struct {
	Service   string        // "warehouse": its sessions are not valid at another service
	Title     string        // "Warehouse", of the login page
	PublicURL string        // its host is one of the server's; may be empty
	Pool      *pgxpool.Pool // of a database with the migrations of sql/access; nil means sessions are kept in memory
	Logger    *slog.Logger
}

const (
	lookAgain   = 2 * time.Second        // between two checks of the file of tokens
	settles     = 200 * time.Millisecond // after a change of the file, until it counts as complete
	sweepsAgain = 10 * time.Minute       // between two removals of sessions that have ended
)

// Access holds the rules of a server. All methods except Run may be called concurrently.
type Access struct {
	Options
	mode     Mode
	hosts    map[host]bool
	listed   Tokens // from the environment
	file     string
	sessions sessions
	live     live
	tokens   atomic.Pointer[Tokens] // the valid ones

	attempts, allAttempts *web.Limiter // failed logins
	bearer, both          []string     // WWW-Authenticate

	mu      sync.Mutex
	revoked [][]byte // hashes of tokens whose sessions are to be removed

	// For Run only:
	content string // of file, when tokens was set
	warned  string // the last warning about file
}

// New returns the access rules of a server. Its errors contain no token and no hash.
func New(s Settings, o Options) (*Access, error) {
	a := &Access{
		Options: o, mode: s.Access, hosts: map[host]bool{}, listed: s.Tokens, file: s.TokensFile,
		sessions: &inMemory{byHash: map[sum]memorized{}}, live: live{byHash: map[sum]waited{}},
		attempts: web.NewLimiter(1, 10), allAttempts: web.NewLimiter(10, 50),
		bearer: []string{fmt.Sprintf("Bearer realm=%q", o.Service)},
	}
	a.both = []string{a.bearer[0], fmt.Sprintf(`Basic realm=%q, charset="UTF-8"`, o.Service)}
	if o.Pool != nil {
		a.sessions = inDatabase{o.Pool, o.Service}
	}
	for _, item := range s.Hosts {
		h, ok := listedHost(item)
		if !ok {
			return nil, fmt.Errorf("HOSTS: %w", errHosts)
		}
		a.hosts[h] = true
	}
	if o.PublicURL != "" {
		u, err := url.Parse(o.PublicURL)
		h, ok := host{}, false
		if err == nil {
			h, ok = listedHost(u.Host)
		}
		if !ok {
			return nil, errors.New("PUBLIC_URL: takes a URL such as https://feeds.example")
		}
		a.hosts[h] = true
	}
	now, content, err := s.valid()
	if err != nil {
		return nil, err
	}
	a.content = content
	a.tokens.Store(&now)
	return a, nil
}

// Check returns an error if TOKENS_FILE cannot be used.
func (s Settings) Check() error {
	_, _, err := s.valid()
	return err
}

// valid returns all tokens that are listed, and the content of the file.
func (s Settings) valid() (all Tokens, content string, err error) {
	if s.TokensFile == "" {
		return s.Tokens, "", nil
	}
	text, err := webserver.ReadFile(s.TokensFile)
	if err == nil {
		all, err = s.Tokens.with(string(text))
	}
	if err != nil {
		err = fmt.Errorf("TOKENS_FILE: %w", err)
	}
	return all, string(text), err
}

// Shut reports whether no client has any role: access is closed and no token is listed.
func (a *Access) Shut() bool { return a.mode == Closed && len(a.tokens.Load().byHash) == 0 }

// Open reports whether every client on this machine may read everything. Then shared caches may keep feeds.
func (a *Access) Open() bool { return a.mode == Open && a.file == "" && len(a.listed.byHash) == 0 }

// Run rereads the file of tokens when it changes, and removes ended sessions, until ctx ends.
func (a *Access) Run(ctx context.Context) {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	looked := make(chan struct{}, 1)
	var tidying sync.WaitGroup
	tidying.Go(func() { a.tidy(ctx, looked) }) // separate, so that a slow database delays no revocation
	defer tidying.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			a.readAgain(ctx)
			a.live.keep(func(_ sum, w waited) bool { return a.operator(w.token) != nil })
			select {
			case looked <- struct{}{}:
			default: // tidy is busy
			}
		}
	}
}

// tidy removes ended sessions, and ends the requests that wait with them. After each check of the file it removes those
// of revoked tokens.
func (a *Access) tidy(ctx context.Context, looked <-chan struct{}) {
	again := time.NewTicker(sweepsAgain)
	defer again.Stop()
	sweep := func() {
		if err := a.sweep(ctx); err != nil && ctx.Err() == nil {
			a.Logger.WarnContext(ctx, "ended sessions not removed", "error", err)
		}
	}
	sweep()
	for {
		select {
		case <-ctx.Done():
			return
		case <-looked:
			if len(a.toRemove()) > 0 {
				_ = a.sweep(ctx) // it is retried later
			}
			a.live.look(ctx, a.sessions)
		case <-again.C:
			sweep()
		}
	}
}

// readAgain updates the tokens from the file. If the file is unreadable, empty or incomplete, the tokens stay as they
// are.
func (a *Access) readAgain(ctx context.Context) {
	if a.file == "" {
		return
	}
	text, err := a.settled(ctx)
	if err == nil && text == a.content {
		a.warned = ""
		return
	}
	var now Tokens
	if err == nil {
		now, err = a.listed.with(text)
	}
	if err != nil {
		if a.warned != err.Error() {
			a.warned = err.Error()
			a.Logger.WarnContext(ctx, "tokens file not usable, keeping the earlier tokens", "file", a.file, "error", err)
		}
		return
	}
	before := a.tokens.Load()
	gone := now.keep(before)
	a.tokens.Store(&now)
	for _, t := range gone {
		t.ending.End()
	}
	a.revoke(gone)
	a.content, a.warned = text, ""
	a.Logger.InfoContext(ctx, "tokens file read again", "file", a.file, "tokens", len(now.byHash), "revoked", len(gone))
}

// settled returns the file's content once it has stayed the same for a moment.
func (a *Access) settled(ctx context.Context) (string, error) {
	text, err := webserver.ReadFile(a.file)
	if err != nil || string(text) == a.content {
		return string(text), err
	}
	select {
	case <-ctx.Done():
		return a.content, nil
	case <-time.After(settles):
	}
	again, err := webserver.ReadFile(a.file)
	if err == nil && !bytes.Equal(again, text) {
		return a.content, nil
	}
	return string(again), err
}

func (a *Access) revoke(gone []*token) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range gone {
		a.revoked = append(a.revoked, t.hash[:])
	}
}

func (a *Access) toRemove() [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.revoked
}

func (a *Access) sweep(ctx context.Context) error {
	revoked := a.toRemove()
	err := a.sessions.sweep(ctx, revoked)
	if err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.revoked = a.revoked[len(revoked):] // tokens revoked in the meantime stay
	}
	return err
}
