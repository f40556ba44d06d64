package feed

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// A Digest is the running SHA-256 of a feed up to one entry. It identifies the whole history before that place.
type Digest [32]byte

// A Cursor identifies a place in a feed and the history before it: `<position>-<first 12 hex digits of the digest at
// that position>`, for example `4200-9f3c1a2b7d04`. The zero Cursor, written `0`, is the start of every feed. Clients
// treat cursors as opaque. Cursors compare with ==.
type Cursor struct {
	Position int64 // the number of entries before this place
	prefix   [6]byte
}

// ErrCursor is wrapped by the error of ParseCursor.
var ErrCursor = errors.New(`not a cursor: it takes "0" or <position>-<12 lower-case hex digits>, as a page of the feed gave it`)

// At returns the cursor of the place after the entry at position, where the running digest is digest. At position 0 it
// is the start, whatever the digest.
func At(position int64, digest Digest) Cursor {
	c := Cursor{Position: position}
	if position > 0 {
		copy(c.prefix[:], digest[:])
	}
	return c
}

// Matches reports whether digest is the digest of the cursor's history at its position.
func (c Cursor) Matches(digest Digest) bool { return c == At(c.Position, digest) }

// IsStart reports whether the cursor is the start of the feed.
func (c Cursor) IsStart() bool { return c.Position == 0 }

func (c Cursor) String() string {
	if c.IsStart() {
		return "0"
	}
	return strconv.FormatInt(c.Position, 10) + "-" + hex.EncodeToString(c.prefix[:])
}

// ParseCursor parses exactly the text that String returns: without sign, leading zeros or upper case. Its error wraps
// ErrCursor.
func ParseCursor(s string) (Cursor, error) {
	if s == "0" {
		return Cursor{}, nil
	}
	if len(s) < 14 || s[len(s)-13] != '-' {
		return Cursor{}, fmt.Errorf("%q is %w", clip(s), ErrCursor)
	}
	position, err := strconv.ParseInt(s[:len(s)-13], 10, 64)
	c := Cursor{Position: position}
	if _, hexErr := hex.Decode(c.prefix[:], []byte(s[len(s)-12:])); err != nil || hexErr != nil || position < 1 || c.String() != s {
		return Cursor{}, fmt.Errorf("%q is %w", clip(s), ErrCursor)
	}
	return c, nil
}

// MarshalText writes the cursor as String does.
func (c Cursor) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a cursor as ParseCursor does.
func (c *Cursor) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCursor(string(text))
	return err
}

// clip shortens text from outside for an error message.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
