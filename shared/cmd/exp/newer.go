package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

func newerBench() {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, url); must(err)
	defer c.Close(ctx)
	ids, raw, vs := make([]uuid.UUID, 1000), make([][16]byte, 1000), make([]int64, 1000)
	for j := range ids { ids[j] = uuid.Must(uuid.NewV7()); raw[j] = ids[j]; vs[j] = 1 }
	for _, q := range []struct{ name, sql string; args []any }{
		{"join", `select e.id from unnest($1::uuid[], $2::bigint[]) as e (id, asked)
		  left join orders as t on t.id = e.id
		  left join rejected_entry as r on r.feed = $3 and r.entity_id = e.id
		 where case when r.feed is null then t.version >= e.asked else r.version > e.asked end`, []any{ids, vs, "orders"}},
		{"any uuid.UUID", `select id, version from orders where id = any($1)`, []any{ids}},
		{"any [16]byte", `select id, version from orders where id = any($1)`, []any{raw}},
		{"nothing uuid.UUID", `select cardinality($1::uuid[])`, []any{ids}},
		{"nothing [16]byte", `select cardinality($1::uuid[])`, []any{raw}},
		{"inner join unnest", `select t.id from unnest($1::uuid[], $2::bigint[]) as e (id, asked) join orders as t on t.id = e.id where t.version >= e.asked`, []any{raw, vs}},
		{"delete rejected", `delete from rejected_entry where feed = $1 and entity_id = any($2)`, []any{"orders", raw}},
		{"delete rejected exists", `delete from rejected_entry where feed = $1 and entity_id = any($2) and exists (select from rejected_entry where feed = $1)`, []any{"orders", raw}},
		{"update", `update orders set version = 1 where id = $1`, []any{ids[0]}},
	} {
		for range 20 { r, err := c.Query(ctx, q.sql, q.args...); must(err); r.Close() }
		t := time.Now()
		for range 200 { r, err := c.Query(ctx, q.sql, q.args...); must(err); r.Close(); must(r.Err()) }
		fmt.Printf("%-30s %8.0f µs\n", q.name, float64(time.Since(t).Microseconds())/200)
	}
}
