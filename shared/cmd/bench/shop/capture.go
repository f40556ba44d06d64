package shop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edison-cars/data-feeds/shared/order"
)

const (
	captureName     = "capture"   // of the publication
	capturePause    = time.Second // after an error
	captureInterval = time.Second // in which PostgreSQL hears how far the capture is
)

// A capture publishes what is inserted into the orders of a database, which does not know it: PostgreSQL decodes its
// write-ahead log, and keeps it until the broker has confirmed the messages.
type capture struct {
	*sales
	url  string
	slot string // a name of which the server has one

	confirmed pglogrepl.LSN
}

func (c *capture) run(ctx context.Context, ready func(any)) error {
	if _, err := c.byStream(ctx); err != nil { // the same exchange and history queue
		return err
	}
	if err := c.prepare(ctx); err != nil {
		return err
	}
	ready(c.slot)
	for ctx.Err() == nil {
		if err := c.follow(ctx); err != nil && ctx.Err() == nil {
			c.logger.ErrorContext(ctx, "the capture was interrupted", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(capturePause):
		}
	}
	return nil
}

// prepare makes the publication and the slot if they are missing: what is committed later is captured.
func (c *capture) prepare(ctx context.Context) error {
	if err := c.db.QueryRow(ctx, `select 'capture_' || current_database()`).Scan(&c.slot); err != nil {
		return err
	}
	var published, there bool
	err := c.db.QueryRow(ctx, `
		select exists (select from pg_publication where pubname = $1), exists (select from pg_replication_slots where slot_name = $2)`,
		captureName, c.slot).Scan(&published, &there)
	if err == nil && !published {
		_, err = c.db.Exec(ctx, `create publication `+captureName+` for table orders with (publish = 'insert')`)
	}
	if err == nil && !there {
		_, err = c.db.Exec(ctx, `select pg_create_logical_replication_slot($1, 'pgoutput')`, c.slot)
	}
	return err
}

// follow publishes from the slot's place on.
func (c *capture) follow(ctx context.Context) error {
	config, err := pgconn.ParseConfig(c.url)
	if err != nil {
		return err
	}
	config.RuntimeParams = map[string]string{"replication": "database", "datestyle": "ISO", "timezone": "UTC"}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = pglogrepl.StartReplication(ctx, conn, c.slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + captureName + "'"},
	})
	if err != nil {
		return err
	}
	relations := map[uint32]*pglogrepl.RelationMessage{}
	for next := time.Now(); ; {
		if !time.Now().Before(next) {
			if err := pglogrepl.SendStandbyStatusUpdate(ctx, conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: c.confirmed}); err != nil {
				return err
			}
			next = time.Now().Add(captureInterval)
		}
		waiting, cancel := context.WithDeadline(ctx, next)
		received, err := conn.ReceiveMessage(waiting)
		cancel()
		if pgconn.Timeout(err) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
		data, ok := received.(*pgproto3.CopyData)
		if !ok {
			return fmt.Errorf("PostgreSQL sent %T", received)
		}
		switch data.Data[0] {
		case pglogrepl.PrimaryKeepaliveMessageByteID:
			alive, err := pglogrepl.ParsePrimaryKeepaliveMessage(data.Data[1:])
			if err != nil {
				return err
			}
			if alive.ReplyRequested {
				next = time.Time{}
			}
		case pglogrepl.XLogDataByteID:
			log, err := pglogrepl.ParseXLogData(data.Data[1:])
			if err == nil {
				err = c.publish(ctx, log.WALData, relations)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (c *capture) publish(ctx context.Context, data []byte, relations map[uint32]*pglogrepl.RelationMessage) error {
	parsed, err := pglogrepl.Parse(data)
	if err != nil {
		return err
	}
	switch m := parsed.(type) {
	case *pglogrepl.RelationMessage:
		relations[m.RelationID] = m
	case *pglogrepl.InsertMessage:
		relation := relations[m.RelationID]
		if relation == nil {
			return errors.New("a row of an unknown table")
		}
		o, err := inserted(relation, m.Tuple)
		if err != nil {
			return err
		}
		body, err := json.Marshal(o)
		if err != nil {
			return err
		}
		return c.link.Deliver(ctx, c.Exchange, "", body)
	case *pglogrepl.CommitMessage:
		c.confirmed = m.TransactionEndLSN
	}
	return nil
}

// inserted returns the order of a row.
func inserted(relation *pglogrepl.RelationMessage, row *pglogrepl.TupleData) (*order.Order, error) {
	o := new(order.Order)
	into := map[string]any{
		"id": &o.ID, "version": &o.Version, "status": &o.Status, "customer_id": &o.CustomerID, "lines": &o.Lines,
		"total_cents": &o.TotalCents, "currency": &o.Currency, "placed_at": &o.PlacedAt.Time, "updated_at": &o.UpdatedAt.Time,
	}
	types := pgtype.NewMap()
	for i, column := range relation.Columns {
		target := into[column.Name]
		if target == nil {
			continue
		}
		if err := types.Scan(column.DataType, pgtype.TextFormatCode, row.Columns[i].Data, target); err != nil {
			return nil, fmt.Errorf("column %s: %w", column.Name, err)
		}
	}
	o.PlacedAt.Time, o.UpdatedAt.Time = o.PlacedAt.UTC(), o.UpdatedAt.UTC()
	return o, nil
}

// alone sells without a word to anybody.
func (s *sales) alone(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	committedAt, err = s.insert(ctx, o)
	if err == nil {
		s.here(s.Crash)
	}
	return committedAt, err
}
