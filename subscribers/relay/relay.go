// Package relay republishes feeds to RabbitMQ. The source does not know it.
package relay

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/eventstream"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

type settings struct {
	Broker eventstream.Broker `env:"AMQP_URL" envDefault:"amqp://localhost:5672" help:"RabbitMQ: amqp://user:password@host:5672/vhost, or amqps://... for TLS; of a cluster one:5672,two:5672"`
}

type relay struct {
	set     settings
	streams map[string]*stream
}

// Service returns the relay service.
func Service() *subscriber.Service {
	r := &relay{streams: map[string]*stream{}}
	orders := r.feed(order.Feed)
	orders.URL = "http://localhost:8080/feeds/orders"
	return &subscriber.Service{
		Name: "relay", Title: "Relay", Addr: "127.0.0.1:8096",
		Text:       "republishes feeds to RabbitMQ",
		Migrations: sql.Migrations("relay"),
		Settings:   &r.set,
		Feeds:      []subscribe.Feed{orders},
		Any:        r.feed,
		Work:       r.work,
		Release:    r.release,
		Routes: func(s *subscriber.Site) {
			for _, sub := range s.Subscriber.Status() {
				s.Metrics(r.streams[sub.Feed].collectors()...)
			}
			s.Page("/", "Streams", overviewPage, func(req *http.Request) (any, error) { return r.overview(req.Context(), s) })
			s.JSON("/api/relay", func(req *http.Request) (any, error) { return r.overview(req.Context(), s) })
		},
	}
}

//go:embed relay.html
var pages embed.FS

var overviewPage = web.Template(pages, "relay.html")

func (r *relay) feed(name string) subscribe.Feed {
	s := newStream(name, &r.set.Broker)
	r.streams[name] = s
	return subscribe.Feed{Name: name, Schedule: "@every 5s", Optional: true, Entries: s.relay}
}

// work keeps every stream connected, even while its feed has nothing new. Its error is logged when it changes.
func (r *relay) work(ctx context.Context, site *subscriber.Site) error {
	var all []error
	for _, sub := range site.Subscriber.Status() {
		if err := r.streams[sub.Feed].keep(ctx, time.Now()); err != nil {
			all = append(all, fmt.Errorf("RabbitMQ at %s, exchange %s: %w", r.set.Broker.Shown, sub.Feed, err))
		}
	}
	return errors.Join(all...)
}

func (r *relay) release() {
	var all sync.WaitGroup
	for _, s := range r.streams {
		all.Go(s.release)
	}
	all.Wait()
}

// dbTimeout bounds the database's work while a page is sent.
const dbTimeout = time.Minute

// relay sends the entries of a page, and returns when RabbitMQ has confirmed all of them.
func (s *stream) relay(ctx context.Context, db *pgxpool.Pool, from feed.Cursor, page *feed.Page) error {
	ctx, cancel := inGoodOrder(ctx)
	defer cancel()
	s.working.Lock()
	defer s.working.Unlock()
	resumes := s.resumes(from, page)
	if !resumes {
		s.from, s.confirmed = from, 0
	}
	var generation int64
	// A page that begins with the first entry, of a feed that was sent before, begins another generation.
	asking, done := context.WithTimeout(ctx, dbTimeout)
	err := db.QueryRow(asking, `
		insert into stream as s (feed) values ($1) on conflict (feed) do update
		   set generation = s.generation + case when $2 and s.position > 0 then 1 else 0 end, position = case when $2 then 0 else s.position end
		returning generation`, s.feed, from.IsStart() && !resumes).Scan(&generation)
	done()
	if err != nil {
		return fmt.Errorf("read the generation of the stream: %w", err)
	}
	s.pending(time.Now())
	before := s.confirmed
	err = s.send(ctx, eventstream.Messages(s.feed, generation, from, page))
	s.unnoted += s.confirmed - before
	if s.unnoted > 0 && s.confirmed > 0 {
		last := page.Entries[s.confirmed-1]
		s.last = eventstream.MessageID(s.feed, &last)
		noting, done := context.WithTimeout(ctx, dbTimeout)
		_, dbErr := db.Exec(noting, `update stream set position = $2, messages = messages + $3, confirmed_at = now() where feed = $1`, s.feed, last.Position, s.unnoted)
		done()
		if dbErr == nil {
			s.unnoted = 0
		}
		err = errors.Join(err, dbErr)
	}
	if err == nil {
		s.confirmed = 0 // a caller that passes the same page again wants it sent again
	}
	s.settled(err)
	return err
}

// resumes reports whether the page is the one that was interrupted, possibly with more entries.
func (s *stream) resumes(from feed.Cursor, page *feed.Page) bool {
	n := s.confirmed
	return n > 0 && from == s.from && n <= len(page.Entries) && eventstream.MessageID(s.feed, &page.Entries[n-1]) == s.last
}

// stopTimeout is the time for pending confirmations at the stop.
const stopTimeout = 5 * time.Second

// inGoodOrder returns a context that ends stopTimeout after ctx.
func inGoodOrder(ctx context.Context) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopTimeout, cancel) })
	return later, func() { stop(); cancel() }
}
