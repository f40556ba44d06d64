package shop

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// The routes of a sales app.
const (
	SalesPath   = "/sales/"  // POST of SalesPath and an id sells an order; the answer is when the commit returned
	SentPath    = "/sent"    // the number of requests and messages that told consumers of orders
	WaitingPath = "/waiting" // the number of requests that wait for the feed to go on
)

type sales struct {
	*settings
	db     *pgxpool.Pool
	link   *Link
	logger *slog.Logger
	crash
	count   atomic.Int64  // requests and messages
	written chan struct{} // signals that there are messages in the outbox
}

// A seller sells in one way: it returns when the order is committed, and those know of it whom the sale tells. An error
// is one for the buyer.
type seller func(ctx context.Context, o *order.Order) (committedAt time.Time, err error)

func (s *sales) insert(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	_, err = s.db.Exec(ctx, insertOrder, Row(o)...)
	return time.Now(), err
}

// commit inserts the order. If sales has to crash, it does so here, before it tells a consumer.
func (s *sales) commit(ctx context.Context, o *order.Order) (body []byte, committedAt time.Time, err error) {
	if body, err = json.Marshal(o); err == nil {
		committedAt, err = s.insert(ctx, o)
	}
	if err == nil {
		s.here(s.Crash)
	}
	return body, committedAt, err
}

func (s *sales) serve(ctx context.Context, kind string, env map[string]string, ready func(addr any)) error {
	ln, err := webserver.Listen(ctx, cmp.Or(s.Addr, "127.0.0.1:0"))
	if err != nil {
		return err
	}
	defer ln.Close()
	registry := webserver.NewMetrics() // on, as in a real one
	engine := webserver.New(s.logger, webserver.CountRequests(registry))
	if err := (webserver.Proxies{"127.0.0.1"}).Trust(engine); err != nil { // for clients of their own
		return err
	}
	defer s.link.Close()
	var sell seller
	switch kind {
	case SalesByCalls:
		sell = s.byCalls()
	case SalesByQueues:
		sell, err = s.byQueues(ctx)
	case SalesByStream:
		sell, err = s.byStream(ctx)
	case SalesAlone:
		sell = s.alone
	case SalesByOutbox:
		if sell, err = s.byOutbox(ctx); err == nil {
			ending, end := context.WithCancel(ctx)
			var relaying sync.WaitGroup
			relaying.Go(func() { s.relayOutbox(ending) })
			defer relaying.Wait()
			defer end()
		}
	default:
		var log *publish.Log
		if log, err = publish.Open(ctx, s.db, publish.Options{Logger: s.logger}); err == nil {
			defer log.Close()
			sell, err = s.byFeed(log, env, engine, registry)
		}
	}
	if err != nil {
		return err
	}
	engine.POST(SalesPath+":id", webserver.Handle(func(c *gin.Context) error {
		id, err := uuid.Parse(c.Param("id"))
		if err != nil {
			return web.Errorf(http.StatusNotFound, "An order has a UUID.")
		}
		committedAt, err := sell(c.Request.Context(), NewOrder(id))
		if err == nil {
			c.JSON(http.StatusOK, committedAt)
		}
		return err
	}))
	if kind != SalesByFeed {
		engine.GET(SentPath, number(s.count.Load))
	}
	ready(ln.Addr())
	return webserver.ServeListener(ctx, ln, engine, s.logger)
}

func number(of func() int64) gin.HandlerFunc {
	return func(c *gin.Context) { c.JSON(http.StatusOK, of()) }
}
