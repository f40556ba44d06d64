package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/klauspost/compress/gzip"

	"github.com/edison-cars/data-feeds/shared/order"
)

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

// marshalOrders reads 100 orders into structs, marshals them, and compresses that for who accepts it, as a plain handler does.
func marshalOrders(pool *pgxpool.Pool) gin.HandlerFunc {
	return func(c *gin.Context) {
		after, _ := strconv.ParseInt(c.Query("after"), 10, 64)
		rows, err := pool.Query(c.Request.Context(), `
			select id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at
			  from orders order by id limit 100 offset $1`, after)
		if err != nil {
			_ = c.AbortWithError(http.StatusInternalServerError, err)
			return
		}
		items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (item, error) {
			o := new(order.Order)
			err := row.Scan(&o.ID, &o.Version, &o.Status, &o.CustomerID, &o.Lines, &o.TotalCents, &o.Currency, &o.PlacedAt.Time, &o.UpdatedAt.Time)
			after++
			title, html := words(o)
			return item{"urn:uuid:" + o.ID.String(), publicURL + "/orders/" + o.ID.String(), title, html, o.UpdatedAt.Time, after, o}, err
		})
		var body []byte
		if err == nil {
			body, err = json.Marshal(gin.H{"title": description.Title, "description": description.Text, "items": items})
		}
		if err != nil {
			_ = c.AbortWithError(http.StatusInternalServerError, err)
			return
		}
		if c.GetHeader("Accept-Encoding") == "gzip" {
			var compressed bytes.Buffer
			w := gzipWriters.Get().(*gzip.Writer)
			w.Reset(&compressed)
			_, err = w.Write(body)
			if err = errors.Join(err, w.Close()); err != nil {
				_ = c.AbortWithError(http.StatusInternalServerError, err)
				return
			}
			gzipWriters.Put(w)
			body = compressed.Bytes()
			c.Header("Content-Encoding", "gzip")
		}
		c.Header("Content-Length", strconv.Itoa(len(body)))
		c.Data(http.StatusOK, "application/json", body)
	}
}
