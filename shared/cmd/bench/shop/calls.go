package shop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// byCalls asks all consumers at once, and commits last: if sales committed first, a consumer that is down would never
// hear of the order.
func (s *sales) byCalls() seller {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 100
	client := &http.Client{Timeout: patience, Transport: transport}
	return func(ctx context.Context, o *order.Order) (committedAt time.Time, err error) {
		ctx = context.WithoutCancel(ctx) // nothing is left half done when a buyer leaves
		body, err := json.Marshal(o)
		if err != nil {
			return committedAt, err
		}
		if err = s.each(ctx, client, http.MethodPut, o, body); err == nil {
			s.here(s.Crash)
			committedAt, err = s.insert(ctx, o)
		}
		if err != nil { // a consumer that did not answer may have taken it
			err = errors.Join(err, s.each(ctx, client, http.MethodDelete, o, nil))
			return committedAt, web.Errorf(http.StatusBadGateway, "Not everybody takes the order. Nothing was bought. (%v)", err)
		}
		return committedAt, nil
	}
}

func (s *sales) each(ctx context.Context, client *http.Client, method string, o *order.Order, body []byte) error {
	var all errgroup.Group
	for _, consumer := range s.Told {
		all.Go(func() error {
			req, err := http.NewRequestWithContext(ctx, method, consumer+"/orders/"+o.ID.String(), bytes.NewReader(body))
			if err != nil {
				return err
			}
			s.count.Add(1)
			resp, err := client.Do(req)
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

func (c *consumer) serveCalls(ctx context.Context, ready func(any)) error {
	ln, err := webserver.Listen(ctx, c.Addr)
	if err != nil {
		return err
	}
	engine := webserver.New(c.logger)
	engine.PUT("/orders/:id", webserver.Handle(func(g *gin.Context) error {
		body, err := io.ReadAll(g.Request.Body)
		if err == nil {
			err = c.write(g.Request.Context(), body, Put)
		}
		if err == nil {
			g.Status(http.StatusNoContent)
		}
		return err
	}))
	engine.DELETE("/orders/:id", webserver.Handle(func(g *gin.Context) error {
		_, err := c.db.Exec(g.Request.Context(), `delete from orders where id = $1`, g.Param("id"))
		if err == nil {
			g.Status(http.StatusNoContent)
		}
		return err
	}))
	ready(ln.Addr())
	return webserver.ServeListener(ctx, ln, engine, c.logger)
}
