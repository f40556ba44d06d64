package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// messages are what the entries of a page are to those who consume the stream. The headers say
//
//	feed        its name, which is the exchange's, too
//	position    of the entry in the feed: 1, 2, 3 ... without gaps
//	version     of the entity
//	deleted     the entity is gone
//	cursor      a place in the feed that is not beyond the entry: who has this message and all before it loses nothing by going on
//	            from there; on the last message of a page it is the place right behind the entry
//	generation  1, or more where the feed goes out anew from its first entry: the source has another history, somebody asked for
//	            it, or the relay ended before it knew that the first page was out
//
// The message id is the same whenever the same entry goes out again, and another one's in another history.
func messages(name string, generation int64, from feed.Cursor, page *feed.Page) []amqp.Publishing {
	all := make([]amqp.Publishing, len(page.Entries))
	for i := range page.Entries {
		e, cursor := &page.Entries[i], from
		if i == len(page.Entries)-1 {
			cursor = page.Cursor
		}
		all[i] = amqp.Publishing{
			MessageId: messageID(name, e).String(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Type: name, Timestamp: e.Updated,
			Headers: amqp.Table{
				"feed": name, "position": e.Position, "version": e.Version, "deleted": e.Deleted, "cursor": cursor.String(), "generation": generation,
			},
			Body: body(e),
		}
	}
	return all
}

func messageID(name string, e *feed.Entry) uuid.UUID {
	return uuid.NewSHA1(e.ID, fmt.Appendf(nil, "%s %d %d %s %t", name, e.Position, e.Version, e.Updated.UTC().Format(time.RFC3339Nano), e.Deleted))
}

// body is the entity as it was published, with the member external_id, its id, in front; the entity stands in a member of its own
// where it has such a member itself. Of a tombstone it says the version.
func body(e *feed.Entry) []byte {
	head := fmt.Appendf(nil, `{"external_id":"%s"`, e.ID)
	entity := bytes.TrimSpace(e.Entity)
	switch {
	case e.Deleted:
		return fmt.Appendf(head, `,"version":%d,"deleted":true}`, e.Version)
	case hasID(entity):
		return append(append(append(head, `,"entity":`...), entity...), '}')
	}
	members := bytes.TrimSpace(entity[1:])
	if members[0] != '}' {
		head = append(head, ',')
	}
	return append(head, members...)
}

func hasID(entity []byte) bool {
	if !bytes.Contains(entity, []byte(`external_id`)) && !bytes.Contains(entity, []byte(`\u`)) {
		return false
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(entity, &members) // it is an object, or no page
	_, has := members["external_id"]
	return has
}
