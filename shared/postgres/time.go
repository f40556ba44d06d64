package postgres

import (
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// The limits of times read from the database: those that JSON can express (RFC 3339). The first one is the zero time.
var (
	earliest = time.Time{}
	latest   = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
)

// boundTimes makes pgx read times in UTC, and infinity, and years that JSON cannot express, as the nearest limit, so that
// a row with such a time, written by a wrong clock or by hand, can be read like any other.
func boundTimes(m *pgtype.Map) {
	m.RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &boundedCodec{pgtype.TimestamptzCodec{ScanLocation: time.UTC}}})
}

type boundedCodec struct{ pgtype.TimestamptzCodec }

func (c *boundedCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	switch target.(type) {
	case *pgtype.Timestamptz: // accepts any time
	case pgtype.TimestamptzScanner:
		if plan := c.TimestamptzCodec.PlanScan(m, oid, format, new(pgtype.Timestamptz)); plan != nil {
			return boundedPlan{plan}
		}
	}
	return c.TimestamptzCodec.PlanScan(m, oid, format, target)
}

type boundedPlan struct{ any pgtype.ScanPlan }

func (p boundedPlan) Scan(src []byte, target any) error {
	var t pgtype.Timestamptz
	if err := p.any.Scan(src, &t); err != nil {
		return err
	}
	return target.(pgtype.TimestamptzScanner).ScanTimestamptz(bounded(t))
}

func bounded(t pgtype.Timestamptz) pgtype.Timestamptz {
	switch {
	case !t.Valid:
	case t.InfinityModifier == pgtype.NegativeInfinity, t.InfinityModifier == pgtype.Finite && t.Time.Before(earliest):
		return pgtype.Timestamptz{Time: earliest, Valid: true}
	case t.InfinityModifier == pgtype.Infinity, t.Time.After(latest):
		return pgtype.Timestamptz{Time: latest, Valid: true}
	}
	return t
}
