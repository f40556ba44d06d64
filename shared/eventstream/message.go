package eventstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/subscribe"
)

// Messages are what the entries of a page are to those who consume the stream. The headers say
//
//	feed        its name, which is the exchange's, too
//	position    of the entry in the feed: 1, 2, 3 ... without gaps
//	version     of the entity
//	updated     when that was made: RFC 3339, UTC, to the microsecond
//	deleted     the entity is gone
//	erased      it is gone for good: no later message of its id counts; left out where it is not
//	after       the place in the feed where the page starts
//	cursor      a place in the feed that is not beyond the entry: a consumer that has this message and all before it loses nothing by going on
//	            from there; on the last message of a page it is the place right behind the entry, else the same as after
//	generation  1, or more where the feed goes out again from its first entry: the source has another history, somebody asked for
//	            it, or the relay ended before it knew that the first page was out
//
// The message id is the same whenever the same entry goes out again, and another one's in another history.
func Messages(name string, generation int64, from feed.Cursor, page *feed.Page) []amqp.Publishing {
	all := make([]amqp.Publishing, len(page.Entries))
	for i := range page.Entries {
		e, cursor := &page.Entries[i], from
		if e.Position == page.Cursor.Position { // else what follows is malformed, and left out
			cursor = page.Cursor
		}
		all[i] = amqp.Publishing{
			MessageId: MessageID(name, e).String(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Type: name, Timestamp: e.Updated,
			Headers: amqp.Table{
				"feed": name, "position": e.Position, "version": e.Version, "updated": e.Updated.UTC().Format(feed.TimeFormat), "deleted": e.Deleted,
				"after": from.String(), "cursor": cursor.String(), "generation": generation,
			},
			Body: body(e),
		}
		if e.Erased {
			all[i].Headers["erased"] = true
		}
	}
	return all
}

// MessageID is the message's of an entry. It is made of the time without the zeros at its end.
func MessageID(name string, e *feed.Entry) uuid.UUID {
	return uuid.NewSHA1(e.ID, fmt.Appendf(nil, "%s %d %d %s %t", name, e.Position, e.Version, e.Updated.UTC().Format(time.RFC3339Nano), e.Deleted))
}

// body is the entity as it was published, with the member external_id, its id, in front; the entity stands in a member of its own,
// entity, where it has such a member itself, or begins with one of that name. Of a tombstone it says the version.
func body(e *feed.Entry) []byte {
	head := fmt.Appendf(nil, bodyHead, e.ID)
	if e.Deleted {
		erased := ""
		if e.Erased {
			erased = `,"erased":true`
		}
		return fmt.Appendf(head, `,"version":%d,"deleted":true%s}`, e.Version, erased)
	}
	entity := bytes.TrimSpace(e.Entity)
	members := bytes.TrimSpace(entity[1:])
	if hasID(entity) || bytes.HasPrefix(members, []byte(bodyEntity[1:])) {
		return append(append(append(head, bodyEntity...), entity...), '}')
	}
	if members[0] != '}' {
		head = append(head, ',')
	}
	return append(head, members...)
}

const (
	bodyHead   = `{"external_id":"%s"`
	bodyEntity = `,"entity":`
)

func hasID(entity []byte) bool {
	if !bytes.Contains(entity, []byte(`external_id`)) && !bytes.Contains(entity, []byte(`\u`)) {
		return false
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(entity, &members) // it is an object, or no page
	_, has := members["external_id"]
	return has
}

// Parse reads a message of the feed's stream.
func Parse(name string, d amqp.Delivery) subscribe.Message {
	m, err := read(name, &d)
	if err != nil {
		m = subscribe.Message{Err: fmt.Errorf("not a message of the feed %s: %w", name, err)}
	}
	m.Acknowledge = func() { _ = d.Ack(true) }
	return m
}

func read(name string, d *amqp.Delivery) (m subscribe.Message, err error) {
	var of, updated, after, cursor string
	if err = errors.Join(
		header(d, "feed", &of), header(d, "position", &m.Position), header(d, "version", &m.Version), header(d, "updated", &updated),
		header(d, "deleted", &m.Deleted), header(d, "after", &after), header(d, "cursor", &cursor), header(d, "generation", &m.Generation),
	); err != nil {
		return m, err
	}
	if _, has := d.Headers["erased"]; has {
		err = header(d, "erased", &m.Erased)
	}
	if err == nil && m.Erased && !m.Deleted {
		err = errors.New("it is erased and not deleted")
	}
	if err != nil {
		return m, err
	}
	if of != name {
		return m, fmt.Errorf("it is of %q", of)
	}
	if m.Updated, err = time.Parse(time.RFC3339Nano, updated); err != nil {
		return m, errors.New("its header updated is no time")
	}
	var behind feed.Cursor
	if err = errors.Join(m.After.UnmarshalText([]byte(after)), behind.UnmarshalText([]byte(cursor))); err != nil {
		return m, err
	}
	if m.Version < 1 || m.After.Position >= m.Position || behind != m.After && behind.Position != m.Position {
		return m, fmt.Errorf("position %d, version %d, after %s and cursor %s do not go together", m.Position, m.Version, m.After, behind)
	}
	if behind != m.After {
		m.Cursor = behind
	}
	return m, readBody(&m, d.Body)
}

func header[T any](d *amqp.Delivery, name string, into *T) error {
	v, ok := d.Headers[name].(T)
	if !ok {
		return fmt.Errorf("its header %s is missing or of another type", name)
	}
	*into = v
	return nil
}

// readBody undoes body, but for white space around the entity's members.
func readBody(m *subscribe.Message, body []byte) (err error) {
	const id = len(bodyHead) - len(`%s"`)
	if len(body) <= id+36+1 || !json.Valid(body) || !bytes.HasPrefix(body, []byte(bodyHead[:id])) {
		return errors.New("its body is no object that begins with external_id")
	}
	if m.ID, err = uuid.ParseBytes(body[id : id+36]); err != nil {
		return errors.New("its external_id is no UUID")
	}
	rest := body[id+36+1:]
	if m.Deleted {
		return nil
	}
	if wrapped, ok := bytes.CutPrefix(rest, []byte(bodyEntity)); ok {
		m.Entity = wrapped[:len(wrapped)-1]
	} else {
		m.Entity = append([]byte{'{'}, bytes.TrimPrefix(rest, []byte(","))...)
	}
	if !json.Valid(m.Entity) || m.Entity[0] != '{' {
		return errors.New("its entity is no object")
	}
	return nil
}
