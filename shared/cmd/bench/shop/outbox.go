package shop

import (
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/order"
)

const (
	outboxBatch = 100
	outboxPause = time.Second // after an error, and between two looks without a sale
)

var insertBoth = fmt.Sprintf(`with placed as (%s) insert into outbox (body) values ($%d)`, insertOrder, len(Columns)+1)

// byOutbox sells by a transactional outbox in front of an event stream: the order and its message are one commit.
func (s *sales) byOutbox(ctx context.Context) (seller, error) {
	if _, err := s.byStream(ctx); err != nil { // the same exchange and history queue
		return nil, err
	}
	s.written = make(chan struct{}, 1)
	_, err := s.db.Exec(ctx, `create table if not exists outbox (id bigint generated always as identity primary key, body bytea not null)`)
	return s.sellByOutbox, err
}

func (s *sales) sellByOutbox(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	body, err := json.Marshal(o)
	if err == nil {
		_, err = s.db.Exec(ctx, insertBoth, append(Row(o), body)...)
	}
	committedAt = time.Now()
	if err != nil {
		return committedAt, err
	}
	s.here(s.Crash)
	select {
	case s.written <- struct{}{}:
	default: // the relay will look anyway
	}
	return committedAt, nil
}

// relayOutbox publishes what is in the outbox until ctx ends.
func (s *sales) relayOutbox(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := s.relaySome(ctx)
		if err != nil && ctx.Err() == nil {
			s.logger.ErrorContext(ctx, "messages stay in the outbox", "error", err)
		}
		if err == nil && n > 0 {
			continue
		}
		written := s.written
		if err != nil {
			written = nil // not before the pause is over
		}
		select {
		case <-ctx.Done():
		case <-written:
		case <-time.After(outboxPause):
		}
	}
}

type message struct {
	ID   int64
	Body []byte
}

// relaySome publishes messages, in the order of their ids, and deletes those that were confirmed. After a crash in
// between, they are published again.
func (s *sales) relaySome(ctx context.Context) (n int, err error) {
	rows, err := s.db.Query(ctx, `select id, body from outbox order by id limit $1`, outboxBatch)
	if err != nil {
		return 0, err
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByPos[message])
	if err != nil {
		return 0, err
	}
	var sent []int64
	for _, m := range messages {
		s.count.Add(1)
		if err = s.link.Deliver(ctx, s.Exchange, "", m.Body); err != nil {
			break
		}
		sent = append(sent, m.ID)
	}
	if len(sent) > 0 {
		if _, deleteErr := s.db.Exec(ctx, `delete from outbox where id = any($1)`, sent); deleteErr != nil {
			return 0, deleteErr
		}
	}
	return len(sent), err
}
