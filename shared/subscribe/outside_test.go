package subscribe

import (
	"context"
	"html/template"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// Outside has what imports this package: these tests use it, but cannot import it. Their external half sets it.
var Outside struct {
	Run    func(ctx context.Context, s *Service, env map[string]string, stdout io.Writer) error
	Help   func(s *Service, w io.Writer)
	Serve  func(t testing.TB, s *Subscriber, pool *pgxpool.Pool, routes func(*Site)) http.Handler
	Header func(Status) string
	// Freshness is what the top of a page says, and Trouble what a page says of the error of a poll.
	Freshness func(Status) web.Freshness
	Trouble   func(error) string

	Messages func(name string, generation int64, from feed.Cursor, page *feed.Page) []amqp.Publishing
	Parse    func(name string, d amqp.Delivery) Message
	Queue    func(url, feed, name string, logger *slog.Logger) (Stream, error)
}

// A Service is a subscriber.Service.
type Service struct {
	Name, Title, Text, Addr string
	Migrations              postgres.Migrations
	Feeds                   []Feed
	Routes                  func(*Site)
	Settings                any
	Work                    func(context.Context, *Site) error
	Publishes               func(publicURL string) []feed.Description
}

// Run runs the service.
func (s *Service) Run(ctx context.Context, env map[string]string, stdout io.Writer) error {
	return Outside.Run(ctx, s, env, stdout)
}

// Help prints its settings.
func (s *Service) Help(w io.Writer) { Outside.Help(s, w) }

// A Site is a subscriber.Site.
type Site struct {
	DB  *pgxpool.Pool
	Log *publish.Log
	Routes
}

// Routes are the methods of a subscriber.Site.
type Routes interface {
	Page(path, title string, t *template.Template, query func(*http.Request) (any, error))
	JSON(path string, query func(*http.Request) (any, error))
	CSV(path string, query func(*http.Request) (iter.Seq2[[]string, error], error))
}
