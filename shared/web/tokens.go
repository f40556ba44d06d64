package web

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/gin-gonic/gin"
)

// tokenPrefix makes a token known for what it is, wherever it turns up.
const tokenPrefix = "edison_"

const maxToken = 256 // bytes

// NewToken gives a random token of 130 bits, fit for headers and URLs, and its hash as Readers take it. SHA-256 without
// salt and stretching is enough for what nobody can guess.
func NewToken() (token, hash string) {
	token = tokenPrefix + rand.Text()
	sum := sha256.Sum256([]byte(token))
	return token, hex.EncodeToString(sum[:])
}

// Readers are those who may read, each by tokens of its own. The zero value lets everybody.
type Readers struct {
	// byPrefix finds a token's hash by its first 8 bytes. How long that takes tells nothing: nobody can choose a hash.
	byPrefix map[uint64]*reader
}

type reader struct {
	name string
	hash [sha256.Size]byte
}

// nobody is compared with where there is no such token.
var nobody reader

var readerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,63}$`)

// ReaderName tells whether a reader may have this name: a letter, then up to 63 letters, digits, dots, dashes and underscores.
func ReaderName(name string) bool { return readerName.MatchString(name) }

// UnmarshalText reads a list name:hash,name:hash, each hash the SHA-256 of a token in hex. A name may be there several
// times, so that its reader can change from one token to the next. The error does not repeat what it read.
func (r *Readers) UnmarshalText(text []byte) error {
	r.byPrefix = map[uint64]*reader{}
	for i, item := range strings.Split(string(text), ",") {
		name, hash, _ := strings.Cut(strings.TrimSpace(item), ":")
		sum, err := hex.DecodeString(hash)
		if err != nil || len(sum) != sha256.Size || !ReaderName(name) {
			return fmt.Errorf("takes a list name:hash,name:hash as `sales-feed token NAME` prints them; number %d is something else", i+1)
		}
		known := &reader{name: name, hash: [sha256.Size]byte(sum)}
		if r.byPrefix[known.prefix()] != nil {
			return fmt.Errorf("number %d of the list has the hash of an earlier one; each reader has tokens of its own", i+1)
		}
		r.byPrefix[known.prefix()] = known
	}
	return nil
}

func (r *reader) prefix() uint64 { return binary.BigEndian.Uint64(r.hash[:8]) }

// Everybody tells that no reader is listed, and so nobody needs a token.
func (r Readers) Everybody() bool { return len(r.byPrefix) == 0 }

// Require lets only the readers in: with `Authorization: Bearer TOKEN` (RFC 6750), or Basic (RFC 7617) with the token as
// password and the reader's name or nothing as user; a token in the URL does not count. Anybody else gets a 401. The
// zero Readers let everybody in, for nothing.
func (r Readers) Require() gin.HandlerFunc {
	if r.Everybody() {
		return func(*gin.Context) {}
	}
	return func(c *gin.Context) {
		fields := c.Request.Header["Authorization"]
		if len(fields) == 0 {
			fail(c, unauthorized("This needs a token: as Bearer, or as the password of Basic.", ""))
			return
		}
		known := r.identify(c.Request)
		if known == nil || len(fields) > 1 {
			fail(c, unauthorized("The token is not valid here.", `, error="invalid_token"`))
			return
		}
		SetReader(c, known.name)
	}
}

func unauthorized(detail, failed string) *Problem {
	p := Errorf(http.StatusUnauthorized, "%s", detail)
	p.Header = http.Header{"Www-Authenticate": {`Bearer realm="feeds"` + failed, `Basic realm="feeds", charset="UTF-8"`}}
	return p
}

func (r Readers) identify(req *http.Request) *reader {
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	user := ""
	if strings.EqualFold(scheme, "Basic") {
		user, token, _ = req.BasicAuth()
	} else if !strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	known := r.owner(strings.Trim(token, " "))
	if known == nil || user != "" && user != known.name {
		return nil
	}
	return known
}

// owner gives the reader whose token it is, nil if it is nobody's, in a time that does not depend on the hashes.
func (r Readers) owner(token string) *reader {
	if len(token) > maxToken {
		return nil
	}
	var text [maxToken]byte // on the stack
	asked := reader{hash: sha256.Sum256(text[:copy(text[:], token)])}
	known, there := r.byPrefix[asked.prefix()]
	if !there {
		known = &nobody
	}
	if subtle.ConstantTimeCompare(known.hash[:], asked.hash[:]) != 1 || !there {
		return nil
	}
	return known
}
