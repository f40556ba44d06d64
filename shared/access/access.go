// Package access decides what a request may do: it checks the Host, tokens, sessions and the address of the client.
package access

import (
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
)

// A Role is what an identity may do. Each role includes the ones before it.
type Role int

// The roles.
const (
	Nobody   Role = iota // no token and no session: health, storefront, sign-up
	Reader               // feeds, by grant, and metrics
	Operator             // everything that shows people or changes something, but for what belongs to a buyer
)

// An Identity is as whom a request was sent.
type Identity struct {
	Name string // of the token; "" for Nobody and for open access
	Role Role
}

// Of is [Look] for what refuses nobody: a session that cannot be looked up does not count.
func Of(c *gin.Context) Identity {
	found, _ := Look(c)
	return found
}

// Look returns the identity of a request, from its token, its session or open access. If the session cannot be looked up, it
// returns the identity without the session, and an error: the request may be an operator's.
func Look(c *gin.Context) (Identity, error) {
	found, err := claimOf(c)
	return found.Identity, err
}

// Settings say who may do what on a server.
type Settings struct {
	Access     Mode   `env:"ACCESS" envDefault:"closed" help:"closed, or open: programs and browsers on this machine may do all that an operator may, without a token"`
	Hosts      Hosts  `env:"HOSTS" help:"names and addresses, beside PUBLIC_URL's and localhost, by which clients reach this server: feeds.example,10.0.0.7"`
	Tokens     Tokens `env:"TOKENS" help:"tokens of readers and operators: NAME:operator:HASH,NAME:reader:HASH,NAME:reader=FEED+FEED:HASH, as sales-feed token prints them"`
	TokensFile string `env:"TOKENS_FILE" help:"file with such tokens, one a line, # before comments; read again within 5 s of a change"`
}

// A Mode says what clients without a token may do.
type Mode int

// The modes.
const (
	Closed Mode = iota // nothing that needs a role
	Open               // on this machine, without a proxy, all that an operator may
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

// Options are what a server is.
type Options struct {
	Service   string        // "warehouse": its sessions are worth nothing at another service
	Title     string        // "Warehouse", of the login page
	PublicURL string        // whose host is one of the server's; may be empty
	Pool      *pgxpool.Pool // of a database that has the migrations of sql/access; nil keeps sessions in memory
	Logger    *slog.Logger
}

const (
	lookAgain   = 2 * time.Second        // between two looks at the file of tokens
	settles     = 200 * time.Millisecond // in which a file that is being written changes again
	sweepsAgain = 10 * time.Minute       // between two removals of sessions that have ended
)

// Access is what the routes of a server ask. All of its methods but Run may be called at the same time.
type Access struct {
	Options
	mode     Mode
	hosts    map[host]bool
	listed   Tokens // by the environment
	file     string
	sessions sessions
	live     live
	tokens   atomic.Pointer[Tokens] // those that are valid now

	attempts, allAttempts *web.Limiter // to log in that failed
	bearer, both          []string     // WWW-Authenticate

	mu      sync.Mutex
	revoked [][]byte // hashes of tokens whose sessions are to be removed

	// Of Run alone:
	content string // of file, as tokens has it
	warned  string // of what is wrong with file
}

// New returns the rules of a server. The error says what is wrong with the settings, and repeats no token and no hash.
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
		if err != nil {
			return nil, errors.New("PUBLIC_URL: takes a URL such as https://feeds.example")
		}
		h, ok := listedHost(u.Host)
		if !ok {
			return nil, errors.New("PUBLIC_URL: takes a URL such as https://feeds.example")
		}
		a.hosts[h] = true
	}
	now := s.Tokens
	if a.file != "" {
		var err error
		if a.content, err = readFile(a.file); err == nil {
			now, err = s.Tokens.with(a.content)
		}
		if err != nil {
			return nil, fmt.Errorf("TOKENS_FILE: %w", err)
		}
	}
	a.tokens.Store(&now)
	return a, nil
}

// Shut reports whether nobody may read or operate: access is closed and no token is listed.
func (a *Access) Shut() bool { return a.mode == Closed && len(a.tokens.Load().byPrefix) == 0 }

// Open reports whether every client on this machine may read everything, and no token is listed that may read less:
// caches may then keep feeds for everybody.
func (a *Access) Open() bool { return a.mode == Open && a.file == "" && len(a.listed.byPrefix) == 0 }

// Run reads the file of tokens again when it has changed, and removes sessions that have ended, until ctx ends.
func (a *Access) Run(ctx context.Context) {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	looked := make(chan struct{}, 1)
	var tidying sync.WaitGroup
	tidying.Go(func() { a.tidy(ctx, looked) }) // apart: a database that is slow delays no revocation
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
			default: // it is still busy
			}
		}
	}
}

// tidy removes sessions that have ended, and ends what waits by them. After each look at the file it removes those of revoked tokens.
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
				_ = a.sweep(ctx) // it comes again
			}
			a.live.look(ctx, a.sessions)
		case <-again.C:
			sweep()
		}
	}
}

// readAgain takes what the file of tokens says now. Where it cannot be read, is empty or is not written to its end, the tokens stay.
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
			a.Logger.WarnContext(ctx, "tokens file not usable, the tokens before stay valid", "file", a.file, "error", err)
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
	a.Logger.InfoContext(ctx, "tokens file read again", "file", a.file, "tokens", len(now.byPrefix), "revoked", len(gone))
}

// settled reads the file of tokens. A change counts if the file stays the same for a moment.
func (a *Access) settled(ctx context.Context) (string, error) {
	text, err := readFile(a.file)
	if err != nil || text == a.content {
		return text, err
	}
	select {
	case <-ctx.Done():
		return a.content, nil
	case <-time.After(settles):
	}
	again, err := readFile(a.file)
	if err == nil && again != text {
		return a.content, nil
	}
	return again, err
}

// revoke makes sweep remove the sessions of tokens.
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

// sweep removes sessions that have ended, and those of revoked tokens.
func (a *Access) sweep(ctx context.Context) error {
	revoked := a.toRemove()
	err := a.sessions.sweep(ctx, revoked)
	if err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.revoked = a.revoked[len(revoked):] // the others are revoked since
	}
	return err
}
