package shop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

// Synchronous calls. Sales asks everybody at once and commits last: what somebody did not take is not sold, so nothing is lost. The
// other way round, the sale would stand, and whoever was down would never hear of it.
type calls struct {
	*base
	consumers []string // URLs
	client    *http.Client
}

func newCalls(b *base, consumers []string) *calls {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 100
	return &calls{b, consumers, &http.Client{Timeout: patience, Transport: transport}}
}

func (s *calls) sell(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
	ctx = context.WithoutCancel(ctx) // a buyer who leaves leaves nothing half done
	body, err := json.Marshal(o)
	if err != nil {
		return committedAt, err
	}
	if err = s.each(ctx, http.MethodPut, o, body); err == nil {
		s.crash.here()
		committedAt, err = s.insert(ctx, o)
	}
	if err != nil { // also those who did not answer may have taken it
		err = errors.Join(err, s.each(ctx, http.MethodDelete, o, nil))
		return committedAt, web.Errorf(http.StatusBadGateway, "Not everybody takes the order. Nothing was bought. (%v)", err)
	}
	return committedAt, nil
}

// each asks every consumer at once.
func (s *calls) each(ctx context.Context, method string, o *order.Order, body []byte) error {
	var all errgroup.Group
	for _, consumer := range s.consumers {
		all.Go(func() error {
			req, err := http.NewRequestWithContext(ctx, method, consumer+"/orders/"+o.ID.String(), bytes.NewReader(body))
			if err != nil {
				return err
			}
			s.count.Add(1)
			resp, err := s.client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return err
			}
			if resp.StatusCode != http.StatusNoContent {
				return fmt.Errorf("%s: %s", consumer, resp.Status)
			}
			return nil
		})
	}
	return all.Wait()
}

// serveCalls is a consumer that is called.
func serveCalls(ctx context.Context, set *settings, own *ownCopy, logger *slog.Logger, stdout io.Writer) error {
	ln, err := web.Listen(ctx, set.Addr)
	if err != nil {
		return err
	}
	engine := web.New(logger)
	engine.PUT("/orders/:id", web.Handle(func(c *gin.Context) error {
		body, err := io.ReadAll(c.Request.Body)
		if err == nil {
			err = own.put(c.Request.Context(), body)
		}
		if err == nil {
			own.crash.here()
			c.Status(http.StatusNoContent)
		}
		return err
	}))
	engine.DELETE("/orders/:id", web.Handle(func(c *gin.Context) error {
		_, err := own.db.Exec(c.Request.Context(), `delete from orders where id = $1`, c.Param("id"))
		if err == nil {
			c.Status(http.StatusNoContent)
		}
		return err
	}))
	ready(stdout, ln.Addr())
	return web.ServeListener(ctx, ln, engine, logger)
}
