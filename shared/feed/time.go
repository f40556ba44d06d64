package feed

import "time"

// TimeFormat is the format of times on the wire: RFC 3339 in UTC, with six digits of the second.
const TimeFormat = "2006-01-02T15:04:05.000000Z07:00"

// A Time is a time in a published contract. Its text, JSON and XML are in TimeFormat.
type Time struct{ time.Time }

// TimeOf returns t as a Time.
func TimeOf(t time.Time) Time { return Time{t.UTC()} }

// OptionalTime returns t as a Time, or nil if t is nil.
func OptionalTime(t *time.Time) *Time {
	if t == nil {
		return nil
	}
	at := TimeOf(*t)
	return &at
}

// MarshalText implements [encoding.TextMarshaler].
func (t Time) MarshalText() ([]byte, error) {
	if text, err := t.UTC().MarshalText(); err != nil { // fails outside of the years 0 to 9999
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
