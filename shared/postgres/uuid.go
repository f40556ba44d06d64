package postgres

import (
	"encoding/binary"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// encodeUUIDs makes pgx encode a uuid.UUID as its 16 bytes, not as text like other driver.Valuers, and a slice of them
// at once.
func encodeUUIDs(m *pgtype.Map) {
	wrap := func(value any) (pgtype.WrappedEncodePlanNextSetter, any, bool) {
		id, ok := value.(uuid.UUID)
		return new(uuidPlan), [16]byte(id), ok
	}
	m.TryWrapEncodePlanFuncs = append([]pgtype.TryWrapEncodePlanFunc{wrap}, m.TryWrapEncodePlanFuncs...)
	element, _ := m.TypeForOID(pgtype.UUIDOID)
	m.RegisterType(&pgtype.Type{Name: "_uuid", OID: pgtype.UUIDArrayOID, Codec: &uuidsCodec{pgtype.ArrayCodec{ElementType: element}}})
}

type uuidPlan struct{ next pgtype.EncodePlan }

func (p *uuidPlan) SetNext(next pgtype.EncodePlan) { p.next = next }

func (p *uuidPlan) Encode(value any, buf []byte) ([]byte, error) {
	return p.next.Encode([16]byte(value.(uuid.UUID)), buf)
}

type uuidsCodec struct{ pgtype.ArrayCodec }

func (c *uuidsCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.([]uuid.UUID); ok && format == pgtype.BinaryFormatCode {
		return uuidsPlan{}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

type uuidsPlan struct{}

// Encode writes the binary form of an array: dimensions, whether there are nulls, the elements' type; length and lower
// bound of the dimension; then length and bytes of each element.
func (uuidsPlan) Encode(value any, buf []byte) ([]byte, error) {
	ids := value.([]uuid.UUID)
	for _, word := range [...]int{min(len(ids), 1), 0, pgtype.UUIDOID} {
		buf = binary.BigEndian.AppendUint32(buf, uint32(word))
	}
	if len(ids) > 0 {
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(ids)))
		buf = binary.BigEndian.AppendUint32(buf, 1)
	}
	for _, id := range ids {
		buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(id))), id[:]...)
	}
	return buf, nil
}
