package dashboard

import (
	"context"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

// readAtOnce is the number of orders that a download holds in memory.
const readAtOnce = 2000

type csvOrder struct {
	ID                 uuid.UUID
	Status, Stage      string
	PlacedAt           time.Time
	Lines              []order.Line
	TotalCents         int64
	BuiltAt, ShippedAt *time.Time
}

// ordersCSV returns the orders of a filter, the oldest first. It holds no connection between two reads, however slow
// the client is. An order that changes during the download appears as it was when it was read.
func ordersCSV(db *pgxpool.Pool) func(*http.Request) (iter.Seq2[[]string, error], error) {
	return func(r *http.Request) (iter.Seq2[[]string, error], error) {
		f, err := readFilter(r)
		if err != nil {
			return nil, err
		}
		after, last := csvOrder{}, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
		if f.From != "" {
			after.PlacedAt, _ = time.Parse(time.DateOnly, f.From)
		}
		if f.To != "" {
			last, _ = time.Parse(time.DateOnly, f.To)
			last = last.AddDate(0, 0, 1)
		}
		return func(yield func([]string, error) bool) {
			if !yield([]string{"order", "status", "stage", "placed_at", "cars", "models", "total", "currency", "built_at", "shipped_at"}, nil) {
				return
			}
			for {
				ctx, cancel := context.WithTimeout(r.Context(), web.RequestTimeout)
				rows, _ := db.Query(ctx, `
					select id, status, stage, placed_at, lines, total_cents, built_at, shipped_at
					  from orders where (placed_at, id) > ($1, $2) and placed_at < $3 order by placed_at, id limit $4`, after.PlacedAt, after.ID, last, readAtOnce)
				list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[csvOrder])
				cancel()
				if err != nil {
					yield(nil, err)
					return
				}
				for _, o := range list {
					if !yield(o.row(), nil) {
						return
					}
				}
				if len(list) < readAtOnce {
					return
				}
				after = list[len(list)-1]
			}
		}, nil
	}
}

func (o csvOrder) row() []string {
	cars, models := 0, []string{}
	for _, l := range o.Lines {
		cars, models = cars+l.Quantity, append(models, strconv.Itoa(l.Quantity)+" "+l.Model)
	}
	return []string{
		o.ID.String(), text(o.Status), text(o.Stage), timestamp(&o.PlacedAt), strconv.Itoa(cars), text(strings.Join(models, ", ")),
		strconv.FormatFloat(float64(o.TotalCents)/100, 'f', 2, 64), "EUR", timestamp(o.BuiltAt), timestamp(o.ShippedAt),
	}
}

func timestamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// text keeps spreadsheets from interpreting text of a feed as a formula.
func text(s string) string {
	if strings.IndexAny(s, "=+-@\t\r") == 0 {
		return "'" + s
	}
	return s
}
