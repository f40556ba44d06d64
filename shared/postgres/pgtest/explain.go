package pgtest

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Cost is what the plan of a query touched.
type Cost struct {
	SQL    string
	Blocks int64 // of 8 kB, in the cache or not
	Plan   string
}

// Explain returns the cost of each query that ask sends over the pool that it gets.
func Explain(t testing.TB, pool *pgxpool.Pool, ask func(*pgxpool.Pool) error) (costs []Cost) {
	t.Helper()
	cfg, sent := pool.Config(), new(queries)
	cfg.ConnConfig.Tracer = sent
	traced, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer traced.Close()
	if err := ask(traced); err != nil {
		t.Fatal(err)
	}
	for _, q := range sent.list {
		c := Cost{SQL: q.SQL}
		if err := pool.QueryRow(t.Context(), "explain (analyze, buffers, format json) "+q.SQL, q.Args...).Scan(&c.Plan); err != nil {
			t.Fatalf("%v: %s", err, q.SQL)
		}
		var plans []struct {
			Plan struct {
				Hit  int64 `json:"Shared Hit Blocks"`
				Read int64 `json:"Shared Read Blocks"`
			}
		}
		if err := json.Unmarshal([]byte(c.Plan), &plans); err != nil || len(plans) != 1 {
			t.Fatalf("%v: %s", err, c.Plan)
		}
		c.Blocks = plans[0].Plan.Hit + plans[0].Plan.Read
		costs = append(costs, c)
	}
	return costs
}

// queries are those that were sent, without those that start a session.
type queries struct {
	sync.Mutex
	list []pgx.TraceQueryStartData
}

func (q *queries) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	q.Lock()
	defer q.Unlock()
	q.list = append(q.list, data)
	return ctx
}

func (*queries) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
