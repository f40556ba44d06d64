package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/klauspost/compress/gzip"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

func serveStructs(ctx context.Context, databaseURL string, stdout io.Writer) error {
	db, err := postgres.Open(ctx, postgres.Config{URL: databaseURL, Name: "bench"})
	if err != nil {
		return err
	}
	defer db.Close()
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.GET("/orders", marshalOrders(db.Pool))
	ln, err := webserver.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, ln.Addr())
	return webserver.ServeListener(ctx, ln, engine, slog.New(slog.DiscardHandler))
}

// An item is an order in a list, with what the feed says of it.
type item struct {
	ID       string       `json:"id"`
	URL      string       `json:"url"`
	Title    string       `json:"title"`
	HTML     string       `json:"content_html"`
	Modified time.Time    `json:"date_modified"`
	Position int64        `json:"position"`
	Order    *order.Order `json:"order"`
}

var gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// marshalOrders reads 100 orders into structs, marshals them, and compresses that for a client that accepts it,
// as a plain handler does.
func marshalOrders(pool *pgxpool.Pool) gin.HandlerFunc {
	return func(c *gin.Context) {
		after, _ := strconv.ParseInt(c.Query("after"), 10, 64)
		compressed := c.GetHeader("Accept-Encoding") == "gzip"
		body, err := orderList(c.Request.Context(), pool, after, compressed)
		if err != nil {
			_ = c.AbortWithError(http.StatusInternalServerError, err)
			return
		}
		if compressed {
			c.Header("Content-Encoding", "gzip")
		}
		c.Header("Content-Length", strconv.Itoa(len(body)))
		c.Data(http.StatusOK, "application/json", body)
	}
}

func orderList(ctx context.Context, pool *pgxpool.Pool, after int64, compressed bool) ([]byte, error) {
	rows, err := pool.Query(ctx, `
		select id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at
		  from orders order by id limit 100 offset $1`, after)
	if err != nil {
		return nil, err
	}
	items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (item, error) {
		o := new(order.Order)
		err := row.Scan(&o.ID, &o.Version, &o.Status, &o.CustomerID, &o.Lines, &o.TotalCents, &o.Currency, &o.PlacedAt.Time,
			&o.UpdatedAt.Time)
		after++
		title, html := shop.Words(o)
		return item{"urn:uuid:" + o.ID.String(), shop.PublicURL + "/orders/" + o.ID.String(), title, html, o.UpdatedAt.Time,
			after, o}, err
	})
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(gin.H{"title": shop.Description.Title, "description": shop.Description.Text, "items": items})
	if err != nil || !compressed {
		return body, err
	}
	var b bytes.Buffer
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&b)
	_, err = w.Write(body)
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}
