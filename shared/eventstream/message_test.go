package eventstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

func numbered(n int) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n)) }

func equal(t testing.TB, a, b []byte) bool {
	t.Helper()
	var one, other any
	if err := errors.Join(json.Unmarshal(a, &one), json.Unmarshal(b, &other)); err != nil {
		t.Fatalf("%v: %s, %s", err, a, b)
	}
	return reflect.DeepEqual(one, other)
}

// delivered is what a consumer gets of a message.
func delivered(p amqp.Publishing) amqp.Delivery {
	return amqp.Delivery{Headers: p.Headers, Body: p.Body}
}

// What goes out comes back, and says where its page starts and where it ends.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	from, behind := feed.At(7, feed.Digest{1}), feed.At(11, feed.Digest{2})
	page := &feed.Page{Cursor: behind, Entries: []feed.Entry{
		{Position: 8, ID: numbered(1), Version: 2, Updated: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC), Entity: []byte(`{"id":1}`)},
		{Position: 9, ID: numbered(1), Version: 3, Updated: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), Deleted: true},
		{Position: 10, ID: numbered(2), Version: 1, Updated: time.Date(2026, 1, 2, 3, 4, 7, 0, time.UTC), Deleted: true, Erased: true},
		{Position: 11, ID: numbered(3), Version: 1, Updated: time.Date(2026, 1, 2, 3, 4, 8, 0, time.UTC), Superseded: true, Cursor: behind},
	}}
	for i, p := range Messages("things", 3, from, page) {
		want := subscribe.Message{Entry: page.Entries[i], After: from, Generation: 3}
		got := Parse("things", delivered(p))
		if got.Acknowledge = nil; !reflect.DeepEqual(got, want) || got.Ends() != (i == 3) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if got := Parse("others", delivered(Messages("things", 3, from, page)[0])); got.Err == nil {
		t.Error("a message of another feed is taken")
	}
	erased := Messages("things", 3, from, page)[0]
	erased.Headers["erased"] = true
	if got := Parse("things", delivered(erased)); got.Err == nil {
		t.Error("a message that is erased and not deleted is taken")
	}
	superseded := Messages("things", 3, from, page)[3]
	if body := string(superseded.Body); body != `{"external_id":"`+numbered(3).String()+`","version":1,"superseded":true}` {
		t.Errorf("the body of a superseded entry is %s", body)
	}
	superseded.Headers["deleted"] = true
	if got := Parse("things", delivered(superseded)); got.Err == nil {
		t.Error("a message that is superseded and deleted is taken")
	}
}

// The header updated has six digits of the second. The message id keeps to the time without zeros at its end.
func TestTimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		nanoseconds int
		updated, id string
	}{
		{0, "2026-01-02T03:04:05.000000Z", "53bb0349-5e3f-5660-a7ca-a27c13a0c824"},
		{678_900_000, "2026-01-02T03:04:05.678900Z", "f436d69c-45a7-5aac-8065-9837adda508a"},
		{678_901_000, "2026-01-02T03:04:05.678901Z", "2228788c-27c2-528b-8110-af4f4c168247"},
	} {
		page := &feed.Page{Cursor: feed.At(1, feed.Digest{1}), Entries: []feed.Entry{
			{Position: 1, ID: numbered(1), Version: 1, Updated: time.Date(2026, 1, 2, 3, 4, 5, c.nanoseconds, time.UTC), Entity: []byte(`{}`)},
		}}
		if m := Messages("things", 1, feed.Cursor{}, page)[0]; m.Headers["updated"] != c.updated || m.MessageId != c.id {
			t.Errorf("updated %s, id %s, want %s, %s", m.Headers["updated"], m.MessageId, c.updated, c.id)
		}
	}
}

// Whatever comes is a message that fits together, or an error.
func FuzzParse(f *testing.F) {
	id := numbered(1).String()
	f.Add(int64(8), int64(1), "2026-01-02T03:04:05Z", false, "7-000000000001", "8-000000000002", []byte(`{"external_id":"`+id+`","id":1}`))
	f.Add(int64(8), int64(1), "2026-01-02T03:04:05Z", false, "7-000000000001", "7-000000000001", []byte(`{"external_id":"`+id+`","entity":{"external_id":1}}`))
	f.Add(int64(8), int64(1), "2026-01-02T03:04:05Z", true, "0", "0", []byte(`{"external_id":"`+id+`","version":1,"deleted":true}`))
	f.Add(int64(8), int64(0), "2026", false, "9-000000000001", "0", []byte(`{"external_id":"`+id+`"}`))
	f.Add(int64(8), int64(1), "2026-01-02T03:04:05Z", false, "0", "0", []byte(`{"external_id":"`+id+`","entity":7}`))
	f.Add(int64(8), int64(1), "2026-01-02T03:04:05Z", false, "0", "0", []byte(`{"external_id":"`+id+`" }`))
	f.Add(int64(8), int64(1), "2026-01-02T03:04:05Z", false, "0", "0", []byte(`["external_id"]`))
	f.Fuzz(func(t *testing.T, position, version int64, updated string, deleted bool, after, cursor string, body []byte) {
		m := Parse("things", amqp.Delivery{Body: body, Headers: amqp.Table{
			"feed": "things", "position": position, "version": version, "updated": updated, "deleted": deleted, "after": after, "cursor": cursor, "generation": int64(1),
		}})
		if m.Err != nil {
			return
		}
		if m.Version < 1 || m.After.Position < 0 || m.After.Position >= m.Position || m.Deleted != (m.Entity == nil) || m.Ends() == m.Cursor.IsStart() {
			t.Errorf("%+v", m)
		}
		if !m.Deleted && (m.Entity[0] != '{' || !json.Valid(m.Entity)) {
			t.Errorf("entity %s", m.Entity)
		}
	})
}

// The last message of a page has the cursor right behind it, and none a cursor beyond it.
func TestCursor(t *testing.T) {
	t.Parallel()
	entries := []feed.Entry{
		{Position: 8, ID: numbered(1), Version: 2, Entity: []byte(`{}`)}, {Position: 9, ID: numbered(1), Version: 3, Deleted: true},
	}
	from, behind := feed.At(7, feed.Digest{1}), feed.At(9, feed.Digest{2})
	got := Messages("things", 3, from, &feed.Page{Entries: entries, Cursor: behind})
	malformed := Messages("things", 3, from, &feed.Page{Entries: entries[:1], Cursor: behind}) // the last entry is left out
	if m := Parse("things", delivered(malformed[0])); m.Err != nil || m.Ends() {
		t.Errorf("%+v", m)
	}
	if got[0].Headers["cursor"] != from.String() || got[1].Headers["cursor"] != behind.String() || got[0].MessageId == got[1].MessageId {
		t.Errorf("%+v", got)
	}
	for _, m := range got {
		if err := m.Headers.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestBody(t *testing.T) {
	t.Parallel()
	id := numbered(1)
	for entity, want := range map[string]string{
		`{"id":"x", "n":[1]}`:           `{"external_id":"` + id.String() + `","id":"x", "n":[1]}`,
		"  {\n \"id\":1}\n":             `{"external_id":"` + id.String() + `","id":1}`,
		`{ }`:                           `{"external_id":"` + id.String() + `"}`,
		`{"external_id":7}`:             `{"external_id":"` + id.String() + `","entity":{"external_id":7}}`,
		`{"a":{"external_id":7}}`:       `{"external_id":"` + id.String() + `","a":{"external_id":7}}`,
		`{"a":"\"external_id\":1"}`:     `{"external_id":"` + id.String() + `","a":"\"external_id\":1"}`,
		`{ "entity":{"external_id":7}}`: `{"external_id":"` + id.String() + `","entity":{ "entity":{"external_id":7}}}`,
		`{"\u0065xternal_id":"ours"}`:   `{"external_id":"` + id.String() + `","entity":{"\u0065xternal_id":"ours"}}`,
	} {
		var same subscribe.Message
		if err := readBody(&same, body(&feed.Entry{ID: id, Entity: []byte(entity)})); err != nil || same.ID != id || !equal(t, same.Entity, []byte(entity)) {
			t.Errorf("%s comes back as %s, %v", entity, same.Entity, err)
		}
		if got := string(body(&feed.Entry{ID: id, Entity: []byte(entity)})); got != want || !json.Valid([]byte(got)) {
			t.Errorf("%s goes out as %s, not %s", entity, got, want)
		}
	}
	if got, want := string(body(&feed.Entry{ID: id, Version: 4, Deleted: true})), `{"external_id":"`+id.String()+`","version":4,"deleted":true}`; got != want {
		t.Errorf("a tombstone goes out as %s", got)
	}
}
