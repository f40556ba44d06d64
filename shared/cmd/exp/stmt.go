package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

func stmtBench() {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, url); must(err)
	defer c.Close(ctx)
	c.Exec(ctx, `drop table if exists bare, pk; create table bare (like orders); create table pk (like orders, primary key (id))`)
	var os []any
	_ = os
	rs := `from jsonb_to_recordset($1::jsonb) as o `+cols
	for range 2 {
	for _, q := range []struct{ name, sql string }{
		{"parse only", `select jsonb_array_length($1::jsonb)`},
		{"parse json only", `select json_array_length($1::json)`},
		{"recordset", `select count(*) `+rs},
		{"recordset typed", `select count(id), count(version), count(status), count(customer_id), count(lines), count(total_cents), count(currency), count(placed_at), count(updated_at) `+rs},
		{"array elements ->>", `select count((e->>'id')::uuid), count((e->>'version')::bigint), count(e->>'status'), count((e->>'customer_id')::uuid), count(e->'lines'), count((e->>'total_cents')::bigint), count(e->>'currency'), count((e->>'placed_at')::timestamptz), count((e->>'updated_at')::timestamptz) from jsonb_array_elements($1::jsonb) e`},
		{"bare insert", `insert into bare select o.* `+rs},
		{"pk insert", `insert into pk select o.* `+rs},
		{"pk on conflict", `insert into pk select o.* `+rs+` on conflict (id) do nothing`},
		{"orders insert", `insert into orders select o.* `+rs},
		{"orders on conflict do nothing", `insert into orders select o.* `+rs+` on conflict (id) do nothing`},
		{"orders upsert", `insert into orders select o.* `+rs+conflict},
	} {
		var total time.Duration
		_, err := c.Exec(ctx, ddl+`; truncate bare, pk`); must(err)
		n := 60
		for i := range n {
			os := make([]any, 1000)
			for j := range os { os[j] = newOrder() }
			b, _ := json.Marshal(os)
			t := time.Now()
			r, err := c.Query(ctx, q.sql, b); must(err); r.Close(); must(r.Err())
			if i >= 5 { total += time.Since(t) }
		}
		fmt.Printf("%-30s %8.2f µs/row\n", q.name, float64(total.Microseconds())/float64(n-5)/1000)
	}
	}
}
