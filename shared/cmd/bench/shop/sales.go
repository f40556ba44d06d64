package shop

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

// The routes of a sales app.
const (
	SalesPath = "/sales/" // POST of SalesPath and n sells order n
	SentPath  = "/sent"   // how many requests and messages it took to tell of the orders, an int
)

// A Sale is the answer to who bought.
type Sale struct {
	ID          uuid.UUID `json:"id"`
	CommittedAt time.Time `json:"committed_at"` // when the commit returned, by the clock of the machine
}

// A seller sells in one way.
type seller interface {
	// sell returns when the order is committed, and those know of it whom the sale tells. An error is one for the buyer.
	sell(ctx context.Context, o *order.Order) (committedAt time.Time, err error)
	// sent counts the requests and messages that it took.
	sent() int64
}

// A base is what the sellers have in common.
type base struct {
	db    *pgxpool.Pool
	crash crash
	count atomic.Int64
}

func (b *base) sent() int64 { return b.count.Load() }

func (b *base) insert(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	_, err = b.db.Exec(ctx, insertOrder, row(o)...)
	return time.Now(), err
}

func serveSales(ctx context.Context, kind string, set *settings, db *pgxpool.Pool, logger *slog.Logger, stdout io.Writer) error {
	ln, err := web.Listen(ctx, set.Addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	engine := web.New(logger)
	own := base{db: db, crash: crash{at: set.Crash}}
	var s seller
	switch kind {
	case SalesByCalls:
		s = newCalls(&own, set.Told)
	case SalesByFeed:
		f, err := newFeed(ctx, &own, set, engine, logger)
		if err != nil {
			return err
		}
		defer f.log.Close()
		s = f
	default:
		l := newLink(set.Broker, 0)
		defer l.close()
		if kind == SalesByQueues {
			s, err = newQueues(ctx, &own, l, set.Told, logger)
		} else {
			s, err = newStream(ctx, &own, l, set.History, logger)
		}
		if err != nil {
			return err
		}
	}
	engine.POST(SalesPath+":n", web.Handle(func(c *gin.Context) error {
		n, err := strconv.Atoi(c.Param("n"))
		if err != nil {
			return web.Errorf(http.StatusNotFound, "Orders have numbers.")
		}
		o := newOrder(n)
		at, err := s.sell(c.Request.Context(), o)
		if err == nil {
			c.JSON(http.StatusOK, Sale{o.ID, at})
		}
		return err
	}))
	engine.GET(SentPath, func(c *gin.Context) { c.JSON(http.StatusOK, s.sent()) })
	ready(stdout, ln.Addr())
	return web.ServeListener(ctx, ln, engine, logger)
}
