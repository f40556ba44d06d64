package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/edison-cars/data-feeds/shared/webserver"
)

// tokenPrefix identifies a token wherever it appears.
const tokenPrefix = "datafeed_"

const maxToken = 256 // bytes

// NewToken returns a random token of 130 bits, usable in headers and URLs, and its hash in the form that [Tokens] read.
// SHA-256 without salt and stretching suffices for a random secret.
func NewToken() (token, hash string) {
	token = tokenPrefix + rand.Text()
	s := sha256.Sum256([]byte(token))
	return token, hex.EncodeToString(s[:])
}

type sum = [sha256.Size]byte

// Tokens are the listed tokens of readers and operators. The zero value lists none.
type Tokens struct {
	// The time of a lookup by hash reveals nothing, since a client cannot choose a hash.
	byHash map[sum]*token
}

type token struct {
	Identity
	feeds  []string // and views, orders/views/open, that a reader may read; nil means all
	hash   sum
	ending *webserver.Ending // of the token's requests, when the token is revoked
	// The rights of requests with the token. As a password it has at most a reader's rights, since browsers send
	// passwords by themselves.
	asBearer, asPassword *claim
}

var tokenName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,63}$`)

var (
	errToken = errors.New("is not of the form NAME:operator:HASH, NAME:reader:HASH or NAME:reader=FEED+FEED:HASH, as `sales-feed token` prints it")
	errTwice = errors.New("repeats the hash of an earlier entry: each token may be listed only once")
)

// UnmarshalText reads a list of NAME:ROLE:HASH, separated by commas or white space. ROLE is operator, reader or
// reader=FEED+FEED, where FEED/views/VIEW is a view alone; HASH is the SHA-256 of a token in hex. A name may be listed several times, so that its owner can
// change tokens without a gap. Errors do not repeat the input.
func (t *Tokens) UnmarshalText(text []byte) error {
	list := Tokens{byHash: map[sum]*token{}}
	for i, item := range items(string(text)) {
		if err := list.add(item); err != nil {
			return fmt.Errorf("number %d %w", i+1, err)
		}
	}
	if len(list.byHash) == 0 {
		return errors.New("lists no token")
	}
	*t = list
	return nil
}

func items(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

func (t Tokens) with(text string) (Tokens, error) {
	all := Tokens{byHash: maps.Clone(t.byHash)}
	if all.byHash == nil {
		all.byHash = map[sum]*token{}
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		return t, errors.New("its last line has no line end: the file may be incomplete")
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		for _, item := range items(line) {
			if err := all.add(item); err != nil {
				return t, fmt.Errorf("line %d %w", number, err)
			}
		}
	}
	if len(all.byHash) == len(t.byHash) {
		return t, errors.New("it lists no token")
	}
	return all, nil
}

func (t Tokens) add(item string) error {
	name, rest, _ := strings.Cut(item, ":")
	role, hash, _ := strings.Cut(rest, ":")
	known := &token{Identity: Identity{Name: name, Role: Reader}, ending: webserver.NewEnding()}
	if role == "operator" {
		known.Role = Operator
	} else if feeds, ok := strings.CutPrefix(role, "reader="); ok {
		known.feeds = strings.Split(feeds, "+")
	} else if role != "reader" {
		return errToken
	}
	binary, err := hex.DecodeString(hash)
	if err != nil || len(binary) != len(known.hash) || !tokenName.MatchString(name) || slices.Contains(known.feeds, "") {
		return errToken
	}
	known.hash = sum(binary)
	known.asBearer = &claim{Identity: known.Identity, token: known}
	known.asPassword = &claim{Identity: Identity{Name: name, Role: Reader}, token: known}
	if t.byHash[known.hash] != nil {
		return errTwice
	}
	t.byHash[known.hash] = known
	return nil
}

// keep reuses the entries of before that are unchanged, and returns those that are gone.
func (t Tokens) keep(before *Tokens) (gone []*token) {
	for key, old := range before.byHash {
		now := t.byHash[key]
		if now != nil && now.Identity == old.Identity && slices.Equal(now.feeds, old.feeds) {
			t.byHash[key] = old
		} else {
			gone = append(gone, old)
		}
	}
	return gone
}

// find returns the entry of a token, or nil.
func (t *Tokens) find(text string) *token {
	if len(text) > maxToken {
		return nil
	}
	var buffer [maxToken]byte // on the stack
	return t.byHash[sha256.Sum256(buffer[:copy(buffer[:], text)])]
}

// mayRead reports whether the token is granted the feed, or the view of it unless that is empty, named as in URLs. A
// token for a feed is one for its views.
func (t *token) mayRead(feed, view string) bool {
	return t.feeds == nil || t.granted(feed) || view != "" && t.granted(feed+"/views/"+view)
}

func (t *token) granted(name string) bool {
	if slices.Contains(t.feeds, name) {
		return true
	}
	for _, suffix := range []string{".atom", ".json", ".html", ".cloudevents"} {
		if name, ok := strings.CutSuffix(name, suffix); ok {
			return slices.Contains(t.feeds, name)
		}
	}
	return false
}

func (t *Tokens) operators() bool {
	for _, known := range t.byHash {
		if known.Role == Operator {
			return true
		}
	}
	return false
}
