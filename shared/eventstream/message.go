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

// Messages returns the messages of a page's entries. Their headers are
//
//	feed        the feed's name, which is also the exchange's
//	position    of the entry in the feed: 1, 2, 3 ... without gaps
//	version     of the entity
//	updated     the time of the version: RFC 3339, UTC, in microseconds
//	deleted     whether the entity was deleted
//	erased      true if the entity was erased: later messages with its id are void; left out otherwise
//	superseded  true if the entry has no content any more, since the entity has a newer version, which follows; left out
//	            otherwise. Consumers skip the message: it is no deletion
//	after       the place in the feed where the page starts
//	cursor      a place in the feed at or before the end of the entry: a consumer with this message and all earlier ones
//	            can continue from there. On the last message of a page it is the place after the entry, else after
//	generation  1, or more if the feed is sent again from its first entry: the source has another history, a resync was
//	            requested, or the relay ended before it recorded that the first page was confirmed
//
// The message id stays the same when an entry is sent again, unless it is a deletion that was superseded meanwhile, and
// differs in another history.
func Messages(name string, generation int64, from feed.Cursor, page *feed.Page) []amqp.Publishing {
	all := make([]amqp.Publishing, len(page.Entries))
	for i := range page.Entries {
		e, cursor := &page.Entries[i], from
		if e.Position == page.Cursor.Position { // otherwise malformed entries follow, which are left out
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
		if e.Superseded {
			all[i].Headers["superseded"] = true
		}
	}
	return all
}

// MessageID returns the id of an entry's message. It ignores zeros at the end of the time.
func MessageID(name string, e *feed.Entry) uuid.UUID {
	return uuid.NewSHA1(e.ID, fmt.Appendf(nil, "%s %d %d %s %t", name, e.Position, e.Version, e.Updated.UTC().Format(time.RFC3339Nano), e.Deleted))
}

// body returns the published entity with its id as first member, external_id. An entity that has a member external_id,
// or whose first member is entity, becomes the value of a member entity. The body of a tombstone, and of a superseded
// entry, has the version.
func body(e *feed.Entry) []byte {
	head := fmt.Appendf(nil, bodyHead, e.ID)
	if e.Superseded {
		return fmt.Appendf(head, `,"version":%d,"superseded":true}`, e.Version)
	}
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
	_ = json.Unmarshal(entity, &members) // an entity of a page is an object
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
	if _, has := d.Headers["superseded"]; has && err == nil {
		err = header(d, "superseded", &m.Superseded)
	}
	switch {
	case err != nil:
	case m.Erased && !m.Deleted:
		err = errors.New("it is erased and not deleted")
	case m.Superseded && m.Deleted:
		err = errors.New("it is superseded and deleted")
	}
	if err != nil {
		return m, err
	}
	if of != name {
		return m, fmt.Errorf("it is of %q", of)
	}
	if m.Updated, err = time.Parse(time.RFC3339Nano, updated); err != nil {
		return m, errors.New("its header updated is not a time")
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

// readBody reverses body, except for white space around the entity's members.
func readBody(m *subscribe.Message, body []byte) (err error) {
	const id = len(bodyHead) - len(`%s"`)
	if len(body) <= id+36+1 || !json.Valid(body) || !bytes.HasPrefix(body, []byte(bodyHead[:id])) {
		return errors.New("its body is not an object that begins with external_id")
	}
	if m.ID, err = uuid.ParseBytes(body[id : id+36]); err != nil {
		return errors.New("its external_id is no UUID")
	}
	rest := body[id+36+1:]
	if m.Deleted || m.Superseded {
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
