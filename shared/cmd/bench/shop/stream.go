package shop

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/order"
)

// Exchange is the event stream's.
const Exchange = order.Feed

// The event stream of the story: a fanout exchange to which sales publishes after its commit, without looking back: it waits for no
// confirmation, and tells nobody when the broker is away. (With confirmations it would do as work queues do.)
type stream struct {
	*base
	link   *link
	logger *slog.Logger
}

// newStream makes the exchange, and the history queue once somebody has thought of one.
func newStream(ctx context.Context, b *base, l *link, history string, logger *slog.Logger) (*stream, error) {
	ch, err := l.channel(ctx)
	if err == nil {
		err = declareExchange(ch)
	}
	if err == nil && history != "" {
		err = bindQueue(ch, history)
	}
	return &stream{b, l, logger}, err
}

func declareExchange(ch *amqp.Channel) error {
	return ch.ExchangeDeclare(Exchange, amqp.ExchangeFanout, true, false, false, false, nil)
}

func bindQueue(ch *amqp.Channel, name string) error {
	_, err := ch.QueueDeclare(name, true, false, false, false, nil)
	if err == nil {
		err = ch.QueueBind(name, "", Exchange, false, nil)
	}
	return err
}

func (s *stream) sell(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	ctx = context.WithoutCancel(ctx)
	body, err := message(o)
	if err == nil {
		committedAt, err = s.insert(ctx, o)
	}
	if err != nil {
		return committedAt, err
	}
	s.crash.here()
	s.count.Add(1)
	ch, err := s.link.channel(ctx)
	if err == nil {
		err = ch.PublishWithContext(ctx, Exchange, "", false, false, persistent(body))
	}
	if err != nil {
		s.logger.ErrorContext(ctx, "an order was not published", "order_id", o.ID, "error", err)
	}
	return committedAt, nil
}

const streamAhead = 20

// consumeStream is a consumer of an exchange: a durable queue, manual acknowledgement, and the order's id against repetitions. A
// newcomer takes out of the history queue what is in there, first.
func consumeStream(ctx context.Context, set *settings, own *ownCopy, logger *slog.Logger, stdout io.Writer) error {
	declare := func(ch *amqp.Channel) error {
		err := declareExchange(ch)
		if err == nil {
			err = bindQueue(ch, set.Name)
		}
		return err
	}
	handle := func(m amqp.Delivery) error {
		err := own.take(ctx, m.Body)
		if err != nil {
			logger.WarnContext(ctx, "a message was not taken", "error", err)
			return m.Nack(false, true)
		}
		own.crash.here()
		return m.Ack(false)
	}
	l := newLink(set.Broker, streamAhead)
	if set.History != "" {
		ch, err := l.channel(ctx)
		if err == nil {
			err = declare(ch) // what comes from now on waits there
		}
		if err == nil {
			err = empty(ch, set.History, handle)
		}
		if err != nil {
			return err
		}
	}
	return l.consume(ctx, set.Name, declare, func() { ready(stdout, set.Name) }, handle)
}

// empty handles all that is in a queue.
func empty(ch *amqp.Channel, queue string, handle func(amqp.Delivery) error) error {
	for {
		m, ok, err := ch.Get(queue, false)
		if err != nil || !ok {
			return err
		}
		if err := handle(m); err != nil {
			return err
		}
	}
}

// take looks whether the order is there, and inserts it.
func (c *ownCopy) take(ctx context.Context, body []byte) error {
	var o struct {
		ExternalID uuid.UUID `json:"external_id"`
	}
	if err := json.Unmarshal(body, &o); err != nil {
		return err
	}
	return c.write(ctx, func(db executor) error {
		var there bool
		if err := db.QueryRow(ctx, `select exists (select from orders where id = $1)`, o.ExternalID).Scan(&there); err != nil || there {
			return err
		}
		_, err := db.Exec(ctx, `insert into orders`+columns+of, array(body))
		return err
	})
}
