package feed

import "time"

// TimeFormat is how times are written on the wire, in UTC: RFC 3339 with six digits of the second.
const TimeFormat = "2006-01-02T15:04:05.000000Z07:00"

// A Time is a time in a published contract. As text, in JSON and in XML, it is in TimeFormat.
type Time struct{ time.Time }

// TimeOf returns t as contracts have it.
func TimeOf(t time.Time) Time { return Time{t.UTC()} }

// OptionalTime returns t as contracts have it, or nil if t is nil.
func OptionalTime(t *time.Time) *Time {
	if t == nil {
		return nil
	}
	at := TimeOf(*t)
	return &at
}

// MarshalText implements [encoding.TextMarshaler].
func (t Time) MarshalText() ([]byte, error) {
	if text, err := t.UTC().MarshalText(); err != nil { // the years 0 to 9999
		return text, err
	}
	return t.UTC().AppendFormat(nil, TimeFormat), nil
}

// MarshalJSON implements [encoding/json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) {
	text, err := t.MarshalText()
	if err != nil {
		return nil, err
	}
	return append(append([]byte{'"'}, text...), '"'), nil
}
