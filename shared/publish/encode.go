package publish

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// rowsType is the type of an argument that holds rows of the log.
const rowsType = "_feed_entry"

// encodeRows makes the connection encode *placed as rows of the log.
func encodeRows(ctx context.Context, conn *pgx.Conn) error {
	if _, known := conn.TypeMap().TypeForName(rowsType); known {
		return nil
	}
	var row, rows uint32
	if err := conn.QueryRow(ctx, `select oid, typarray from pg_type where oid = 'feed_entry'::regtype`).Scan(&row, &rows); err != nil {
		return err
	}
	conn.TypeMap().RegisterType(&pgtype.Type{Name: rowsType, OID: rows, Codec: &rowsCodec{row: row}})
	return nil
}

// A rowsCodec encodes rows of the log.
type rowsCodec struct {
	pgtype.ArrayCodec
	row uint32 // OID of the row type
}

func (*rowsCodec) FormatSupported(format int16) bool { return format == pgtype.BinaryFormatCode }
func (*rowsCodec) PreferredFormat() int16            { return pgtype.BinaryFormatCode }

func (c *rowsCodec) PlanEncode(_ *pgtype.Map, _ uint32, _ int16, value any) pgtype.EncodePlan {
	if _, ok := value.(*placed); ok {
		return c
	}
	return nil
}

// epoch is the zero of PostgreSQL's times.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// Encode writes the binary form of an array of rows: dimensions, whether there are nulls, the type of a row, then
// length and lower bound of the one dimension, then each row with its length in front: the number of its columns, then
// type, length and value of each.
func (c *rowsCodec) Encode(value any, b []byte) ([]byte, error) {
	p := value.(*placed)
	n := len(p.records)
	size := 20
	for i := range p.records {
		size += len(p.feed) + len(p.records[i].Payload) + 250
	}
	b = slices.Grow(b, size)
	for _, word := range [...]uint32{1, 0, c.row, uint32(n), 1} {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	for i := range p.records {
		r := &p.records[i]
		b = append(b, 0, 0, 0, 0)
		start := len(b)
		b = binary.BigEndian.AppendUint32(b, 10)
		b = appendBytes(b, pgtype.TextOID, p.feed)
		b = appendNumber(b, pgtype.Int8OID, p.from.Position+int64(i)+1)
		b = appendBytes(b, pgtype.TextOID, r.kind)
		b = appendBytes(b, pgtype.UUIDOID, r.ID[:])
		b = appendNumber(b, pgtype.Int8OID, r.Version)
		b = appendNumber(b, pgtype.TimestamptzOID, r.Updated.UnixMicro()-epoch)
		if r.Payload == nil {
			b = binary.BigEndian.AppendUint32(b, pgtype.ByteaOID)
			b = append(b, 0xff, 0xff, 0xff, 0xff) // null
		} else {
			b = appendBytes(b, pgtype.ByteaOID, r.Payload)
		}
		b = appendBytes(b, pgtype.ByteaOID, r.salt)
		b = appendBytes(b, pgtype.ByteaOID, r.hash[:])
		b = appendBytes(b, pgtype.ByteaOID, p.digests[i])
		binary.BigEndian.PutUint32(b[start-4:], uint32(len(b)-start))
	}
	return b, nil
}

func appendBytes[T string | []byte](b []byte, oid uint32, value T) []byte {
	b = binary.BigEndian.AppendUint32(b, oid)
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(b, value...)
}

func appendNumber(b []byte, oid uint32, value int64) []byte {
	b = binary.BigEndian.AppendUint32(b, oid)
	b = binary.BigEndian.AppendUint32(b, 8)
	return binary.BigEndian.AppendUint64(b, uint64(value))
}
