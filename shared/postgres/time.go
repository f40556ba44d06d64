package postgres

import (
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// The times that a time.Time read from the database lies between: those that JSON can say (RFC 3339). The first one is zero.
var (
	earliest = time.Time{}
	latest   = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
)

// boundTimes lets pgx read infinity, and years that no JSON takes, as the nearest time that it does: a row with such a time,
// as a clock that was wrong or a hand left it, can be read, and shown, as any other.
func boundTimes(m *pgtype.Map) {
	m.RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: new(boundedCodec)})
}

type boundedCodec struct{ pgtype.TimestamptzCodec }

func (c *boundedCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	switch target.(type) {
	case *pgtype.Timestamptz: // which takes any
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
