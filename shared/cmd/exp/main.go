package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/edison-cars/data-feeds/shared/order"
)

const ddl = `drop table if exists orders; create table orders (
    id          uuid        primary key,
    version     bigint      not null,
    status      text        not null,
    customer_id uuid        not null,
    lines       jsonb       not null,
    total_cents bigint      not null,
    currency    text        not null,
    placed_at   timestamptz not null,
    updated_at  timestamptz not null
);
create index orders_customer on orders (customer_id);
create index orders_placed on orders (placed_at); checkpoint`

const cols = `(id uuid, version bigint, status text, customer_id uuid, lines jsonb, total_cents bigint, currency text, placed_at timestamptz, updated_at timestamptz)`
const conflict = ` on conflict (id) do update set version = excluded.version, status = excluded.status, customer_id = excluded.customer_id,
	       lines = excluded.lines, total_cents = excluded.total_cents, currency = excluded.currency,
	       placed_at = excluded.placed_at, updated_at = excluded.updated_at where orders.version < excluded.version`

func newOrder() *order.Order {
	now := time.Now().UTC().Truncate(time.Microsecond)
	return &order.Order{
		ID: uuid.Must(uuid.NewV7()), Version: 1, Status: order.Placed, CustomerID: uuid.New(), Currency: "EUR", PlacedAt: now, UpdatedAt: now,
		Lines: []order.Line{
			{Model: "ampere", Options: []string{"all_wheel_drive", "driver_assistance", "glass_roof"}, Quantity: 1, UnitPriceCents: 5_789_000},
			{Model: "joule", Options: []string{"heat_pump", "long_range", "tow_bar"}, Quantity: 3, UnitPriceCents: 5_120_000},
			{Model: "ohm", Options: []string{"driver_assistance", "third_row"}, Quantity: 2, UnitPriceCents: 5_460_000},
			{Model: "volta", Options: []string{}, Quantity: 1, UnitPriceCents: 2_990_000},
		}, TotalCents: 35059000,
	}
}

func must(err error) { if err != nil { panic(err) } }

const url = "postgres://postgres@/postgres?host=/tmp&port=5999"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "stmt" { stmtBench(); return }
	if len(os.Args) > 1 && os.Args[1] == "newer" { newerBench(); return }
	ctx := context.Background()
	const N = 200_000
	var orders []*order.Order
	for range N { orders = append(orders, newOrder()) }
	pages := func(size int) [][]byte {
		var ps [][]byte
		for i := 0; i < N; i += size {
			b, err := json.Marshal(orders[i:i+size]); must(err)
			ps = append(ps, b)
		}
		return ps
	}
	conn, err := pgx.Connect(ctx, url); must(err)
	run := func(name string, f func()) {
		_, err := conn.Exec(ctx, ddl); must(err)
		t := time.Now(); f()
		var n int
		must(conn.QueryRow(ctx, `select count(*) from orders`).Scan(&n))
		fmt.Printf("%-40s %8.0f/s %d\n", name, N/time.Since(t).Seconds(), n)
	}
	parallel := func(n int, ps [][]byte, f func(c *pgx.Conn, p []byte)) {
		ch := make(chan []byte)
		var wg sync.WaitGroup
		for range n { wg.Go(func() { c, err := pgx.Connect(ctx, url); must(err); defer c.Close(ctx); for p := range ch { f(c, p) } }) }
		for _, p := range ps { ch <- p }
		close(ch); wg.Wait()
	}
	up := func(from string) func(c *pgx.Conn, p []byte) { return func(c *pgx.Conn, p []byte) {
		_, err := c.Exec(ctx, `insert into orders select o.* from `+from+conflict, p); must(err) } }
	only := strings.Join(os.Args[1:], " ")
	for range 2 {
	if only == "" || strings.Contains(only, "copy") {
	f, _ := os.Create("/tmp/exp/orders.copy")
	_, err = conn.Exec(ctx, ddl); must(err)
	parallel(1, pages(1000), up(`jsonb_to_recordset($1) as o `+cols))
	_, err = conn.PgConn().CopyTo(ctx, f, `copy orders to stdout`); must(err); f.Close()
	run("psql copy", func() { out, err := exec.Command("psql", "-q", "-c", `\copy orders from '/tmp/exp/orders.copy'`, url).CombinedOutput(); if err != nil { panic(string(out)) } })
	}
	for _, c := range []struct{ name, from string; n, size int }{
		{"jsonb 1 conn 1000", `jsonb_to_recordset($1) as o `+cols, 1, 1000},
		{"jsonb 2 conn 1000", `jsonb_to_recordset($1) as o `+cols, 2, 1000},
		{"json 1 conn 1000", `json_to_recordset($1) as o `+cols, 1, 1000},
		{"json 2 conn 1000", `json_to_recordset($1) as o `+cols, 2, 1000},
	} {
		if only != "" && !strings.Contains(c.name, only) { continue }
		run(c.name, func() { parallel(c.n, pages(c.size), up(c.from)) })
	}
	for _, n := range []int{1,2} { for _, v := range []string{"upsert+newer", "upsert+newer custom", "upsert+newer+rej", "upsert+newer+rej custom"} {
		if only != "" && !strings.Contains(v, only) { continue }
		conn.Exec(ctx, `create table if not exists rejected_entry (feed text, entity_id uuid, version bigint, primary key (feed, entity_id))`)
		run(fmt.Sprint(v, " ", n), func() {
			ps := pages(1000)
			k := 0
			var mu sync.Mutex
			parallel(n, ps, func(c *pgx.Conn, p []byte) {
				mu.Lock(); i := k; k++; mu.Unlock()
				ids, vs := make([]uuid.UUID, 1000), make([]int64, 1000)
				for j, o := range orders[i*1000:(i+1)*1000] { ids[j], vs[j] = o.ID, 1 }
				must(pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
					if strings.Contains(v, "custom") { _, err := tx.Exec(ctx, `set local plan_cache_mode = force_custom_plan`); must(err) }
					rows, err := tx.Query(ctx, `select e.id from unnest($1::uuid[], $2::bigint[]) as e (id, asked)
		  left join orders as t on t.id = e.id
		  left join rejected_entry as r on r.feed = $3 and r.entity_id = e.id
		 where case when r.feed is null then t.version >= e.asked else r.version > e.asked end`, ids, vs, "orders"); must(err)
					rows.Close()
					_, err = tx.Exec(ctx, `insert into orders select o.* from jsonb_to_recordset($1) as o `+cols+conflict, p); must(err)
					if strings.Contains(v, "rej") { _, err = tx.Exec(ctx, `delete from rejected_entry where feed = $1 and entity_id = any($2)`, "orders", ids); must(err) }
					return nil
				}))
			})
		})
	} }
	}
}
