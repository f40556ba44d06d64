package subscribe

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// errUnusual means that a value or its column's type has no binary form here, and is sent as text.
var errUnusual = errors.New("not in binary")

// The header and trailer of the binary format (PostgreSQL's documentation of COPY, "Binary Format").
const (
	binaryBegin = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	binaryEnd   = "\xff\xff"
)

// appendBinary appends an entry's row, or returns errUnusual.
func (u *upsert) appendBinary(to []byte, e feed.Entry, values []jsontext.Value) (_ []byte, err error) {
	if u.types[0] != pgtype.UUIDOID || u.types[1] != pgtype.Int8OID {
		return nil, errUnusual
	}
	to = binary.BigEndian.AppendUint16(to, uint16(len(u.types)))
	to = append(binary.BigEndian.AppendUint32(to, 16), e.ID[:]...)
	to = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(to, 8), uint64(e.Version))
	for i, v := range values {
		size := len(to)
		to = binary.BigEndian.AppendUint32(to, math.MaxUint32) // null
		if v == nil {
			continue
		}
		if to, err = appendField(to, u.types[i+2], v); err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint32(to[size:], uint32(len(to)-size-4))
	}
	return to, nil
}

// epoch is the zero of PostgreSQL's times.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// appendField appends a value in the binary form of the type, if it is written in the usual way. Other forms are left
// to PostgreSQL's parser.
func appendField(to []byte, oid uint32, v jsontext.Value) ([]byte, error) {
	switch oid {
	case pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID, pgtype.JSONOID:
		return appendText(to, oid, v)
	case pgtype.JSONBOID:
		return append(append(to, 1), v...), nil
	case pgtype.UUIDOID:
		if len(v) == len(`"00000000-0000-0000-0000-000000000000"`) {
			id, err := uuid.ParseBytes(v[1 : len(v)-1])
			return append(to, id[:]...), unusual(err)
		}
	case pgtype.Int8OID:
		n, err := strconv.ParseInt(string(v), 10, 64)
		return binary.BigEndian.AppendUint64(to, uint64(n)), unusual(err)
	case pgtype.Int4OID:
		n, err := strconv.ParseInt(string(v), 10, 32)
		return binary.BigEndian.AppendUint32(to, uint32(n)), unusual(err)
	case pgtype.TimestamptzOID: // in UTC, with at most six digits of a second
		var at time.Time
		if most := `"2006-01-02T15:04:05.999999Z"`; len(v) <= len(most) && bytes.HasSuffix(v, []byte(`Z"`)) && !bytes.HasPrefix(v, []byte(`"0000`)) {
			err := at.UnmarshalJSON(v)
			return binary.BigEndian.AppendUint64(to, uint64(at.UnixMicro()-epoch)), unusual(err)
		}
	case pgtype.BoolOID:
		switch v[0] {
		case 't':
			return append(to, 1), nil
		case 'f':
			return append(to, 0), nil
		}
	}
	return nil, errUnusual
}

func unusual(err error) error {
	if err != nil {
		return errUnusual
	}
	return nil
}

// appendRow appends an entry's row in COPY's text format.
func (u *upsert) appendRow(to []byte, e feed.Entry, values []jsontext.Value) ([]byte, error) {
	to = strconv.AppendInt(append(hex.AppendEncode(to, e.ID[:]), '\t'), e.Version, 10)
	for i, v := range values {
		to = append(to, '\t')
		if v == nil {
			to = append(to, `\N`...)
			continue
		}
		field, err := appendText(nil, u.types[i+2], v)
		if err != nil {
			return nil, err
		}
		to = appendEscaped(to, field)
	}
	return append(to, '\n'), nil
}

// appendText appends the text that PostgreSQL parses as a value of the type.
func appendText(to []byte, oid uint32, v jsontext.Value) ([]byte, error) {
	if v[0] != '"' || oid == pgtype.JSONOID || oid == pgtype.JSONBOID {
		return append(to, v...), nil
	}
	to, err := jsontext.AppendUnquote(to, v)
	if err != nil {
		return nil, &entityError{err}
	}
	return to, nil
}

// appendEscaped appends a field of COPY's text format. It escapes what would end the field or begin an escape.
func appendEscaped(to, field []byte) []byte {
	const special, names = "\\\n\r\t", `\nrt`
	if !slices.ContainsFunc([]byte(special), func(b byte) bool { return bytes.IndexByte(field, b) >= 0 }) {
		return append(to, field...) // the usual case
	}
	for _, b := range field {
		if at := strings.IndexByte(special, b); at >= 0 {
			to = append(to, '\\', names[at])
		} else {
			to = append(to, b)
		}
	}
	return to
}
