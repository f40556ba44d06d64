package shop

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/order"
)

// byStream sells by an event stream: sales commits, then publishes to a fanout exchange, unconfirmed. (Confirmed, it
// would do as work queues do.)
func (s *sales) byStream(ctx context.Context) (seller, error) {
	ch, err := s.link.Channel(ctx)
	if err == nil {
		err = s.declareExchange(ch)
	}
	if err == nil && s.History != "" { // for newcomers
		err = s.bindQueue(ch, s.History)
	}
	return s.sellByStream, err
}

func (s *settings) declareExchange(ch *amqp.Channel) error {
	return ch.ExchangeDeclare(s.Exchange, amqp.ExchangeFanout, true, false, false, false, nil)
}

func (s *settings) bindQueue(ch *amqp.Channel, name string) error {
	_, err := ch.QueueDeclare(name, true, false, false, false, nil)
	if err == nil {
		err = ch.QueueBind(name, "", s.Exchange, false, nil)
	}
	return err
}

func (s *sales) sellByStream(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	ctx = context.WithoutCancel(ctx)
	body, committedAt, err := s.commit(ctx, o)
	if err != nil {
		return committedAt, err
	}
	s.count.Add(1)
	ch, err := s.link.Channel(ctx)
	if err == nil {
		err = ch.PublishWithContext(ctx, s.Exchange, "", false, false, Persistent(body))
	}
	if err != nil {
		s.logger.ErrorContext(ctx, "an order was not published", "order_id", o.ID, "error", err)
	}
	return committedAt, nil
}

const streamAhead = 20

// serveStream is a consumer of an exchange: a durable queue, manual acknowledgement, and the order's id against
// repetitions. A newcomer empties the history queue first.
func (c *consumer) serveStream(ctx context.Context, ready func(any)) error {
	declare := func(ch *amqp.Channel) error {
		err := c.declareExchange(ch)
		if err == nil {
			err = c.bindQueue(ch, c.Name)
		}
		return err
	}
	handle := func(m amqp.Delivery) error {
		if err := c.write(ctx, m.Body, Take); err != nil {
			c.logger.WarnContext(ctx, "a message was not taken", "error", err)
			return m.Nack(false, true)
		}
		return m.Ack(false)
	}
	l := NewLink(c.Broker, streamAhead)
	if c.History != "" {
		ch, err := l.Channel(ctx)
		if err == nil {
			err = declare(ch) // new messages wait there
		}
		if err == nil {
			err = empty(ch, c.History, handle)
		}
		if err != nil {
			return err
		}
	}
	return l.Consume(ctx, c.Name, 1, declare, func() { ready(c.Name) },
		func(batch []amqp.Delivery) error { return handle(batch[0]) })
}

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
