package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/edison-cars/data-feeds/shared/dev/freeport"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/subscribers/assembly"
	"github.com/edison-cars/data-feeds/subscribers/billing"
	"github.com/edison-cars/data-feeds/subscribers/dashboard"
	"github.com/edison-cars/data-feeds/subscribers/mailer"
	"github.com/edison-cars/data-feeds/subscribers/shipping"
	"github.com/edison-cars/data-feeds/subscribers/warehouse"
)

// subscribers returns those that keep more rows the longer they run, by the kind of their process.
func subscribers() map[string]*subscriber.Service {
	all := map[string]*subscriber.Service{}
	for _, s := range []*subscriber.Service{warehouse.Service(), assembly.Service(), dashboard.Service, billing.Service, shipping.Service(), mailer.Service()} {
		all[s.Name] = s
	}
	return all
}

// A lister is a service whose pages read from long tables.
type lister struct {
	kind string
	fill []string // statements that fill its tables with $1 rows
	// pages are paths, or queries for one in tables of $1 rows.
	pages []listed
}

type listed struct{ name, path string }

var listers = []lister{
	{salesKind, []string{`
		insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at, updated_at)
		select md5(n::text)::uuid, 1, case when n % 10 = 0 then 'cancelled' else 'placed' end, gen_random_uuid(),
		       '[{"model": "volta", "options": [], "quantity": 1, "unit_price_cents": 2990000}]', 2990000, 'EUR', now() - n * interval '1 s', now()
		  from generate_series(1, $1::int) as n`},
		[]listed{
			{"orders", "/orders"}, {"orders, cancelled", "/orders?status=cancelled"},
			{"orders, from the middle", `select '/orders?before=' || md5(($1::int / 2)::text)::uuid`},
			{"orders, found", `select '/orders?q=' || md5(($1::int / 2)::text)::uuid`},
			{"order", `select '/orders/' || md5(($1::int / 2)::text)::uuid`},
		}},
	{customersKind, []string{`
		insert into customer (id, version, name, email, street, postal_code, city, country, created_at, updated_at)
		select md5(n::text)::uuid, 1, 'Ada', 'ada' || n || '@example.com', 'Street', '10115', 'Berlin', 'DE', now() - n * interval '1 s', now()
		  from generate_series(1, $1::int) as n`},
		[]listed{
			{"accounts", "/customers"},
			{"accounts, from the middle", `select '/customers?before=' || to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z,"') || id from customer where id = md5(($1::int / 2)::text)::uuid`},
			{"accounts, found", `select '/customers?q=' || md5(($1::int / 2)::text)::uuid`},
		}},
	{"warehouse", []string{
		`insert into orders (id, version, status, lines, to_build)
			select md5(n::text)::uuid, 1, 'placed', '[{"model": "volta", "options": [], "quantity": 1}]', n % 2 = 0 from generate_series(1, $1::int) as n`,
		`insert into reservation (order_id, part, quantity, built_in) select md5(n::text)::uuid, 'motor', 1, 0 from generate_series(1, $1::int) as n`,
		`insert into purchase (part, number, quantity, due_at, arrived_at)
			select 'motor', n, 1, now() + n * interval '1 h', case when n % 10 > 0 then now() end from generate_series(1, $1::int) as n`,
		`insert into movement (part, order_id, reserved, on_hand_after, reserved_after, on_order_after)
			select 'motor', md5(n::text)::uuid, 1, 80, n, 0 from generate_series(1, $1::int) as n`,
	}, []listed{
		{"parts", "/"}, {"orders", "/orders"}, {"orders short of a part", "/orders?part=motor"},
		{"orders, from the middle", `select '/orders?before=' || md5(($1::int / 2)::text)::uuid`},
		{"orders, found", `select '/orders?q=' || md5(($1::int / 2)::text)::uuid`},
		{"purchases", "/purchases"}, {"purchases, from the middle", `select '/purchases?before=' || $1::int / 2`},
		{"a part's history", "/parts/motor"}, {"a part's history, from the middle", `select '/parts/motor?before=' || $1::int / 2`},
		{"a part's history, of an order", `select '/parts/motor?q=' || md5(($1::int / 2)::text)::uuid`},
		{"reservation", `select '/reservations/' || md5(($1::int / 2 / 2 * 2)::text)::uuid`}, {"suppliers", "/suppliers"},
		{"way of an order", `select '/api/trace/' || md5(($1::int / 2)::text)::uuid`},
	}},
	{"assembly", []string{
		`insert into orders (id, version, cars) select md5(n::text)::uuid, 1, 1 from generate_series(1, $1::int) as n`,
		`insert into build (id, version, status, order_id, customer_id, car, model, options, slot, started_at, finished_at, updated_at, due)
			select md5('build' || n)::uuid, 1, status, md5(n::text)::uuid, gen_random_uuid(), 1, 'volta', '{}', date '2026-11-23' + n % 1000,
			       case when status in ('started', 'finished') then now() end, case when status = 'finished' then now() end, now() - n * interval '1 s',
			       case when status in ('planned', 'started') then timestamptz '9000-01-01' + n * interval '1 s' end
			  from generate_series(1, $1::int) as n cross join lateral (select (array['planned', 'started', 'finished', 'cancelled'])[1 + n % 4] as status) as s`,
	}, []listed{
		{"overview", "/"}, {"builds", "/builds"}, {"builds, finished", "/builds?status=finished"},
		{"builds, from the middle", `select '/builds?before=' || to_char(updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z,"') || id from build where id = md5('build' || $1::int / 2)::uuid`},
		{"builds, found", `select '/builds?q=' || md5(($1::int / 2)::text)::uuid`},
		{"build", `select '/builds/' || md5('build' || $1::int / 2)::uuid`},
		{"way of an order", `select '/api/trace/' || md5(($1::int / 2)::text)::uuid`},
	}},
	{"dashboard", []string{
		`insert into orders (id, version, status, placed_at, total_cents, stage, lines)
			select md5(n::text)::uuid, 1, 'placed', timestamptz '2026-01-01' + n * interval '365 days' / $1::int, 2990000, 'placed',
			       jsonb_build_array(jsonb_build_object('model', (array['volta', 'ohm', 'joule', 'ampere'])[1 + n % 4], 'options', array['tow_bar'], 'quantity', 1, 'unit_price_cents', 2990000))
			  from generate_series(1, $1::int) as n`,
		`insert into figure (kind, day, name, orders, cars, revenue_cents)
			select kind, (placed_at at time zone 'UTC')::date, name, count(*), count(*), sum(total_cents)
			  from orders
			 cross join lateral (values ('stage', stage), ('hour', to_char(placed_at at time zone 'UTC', 'HH24')), ('model', lines->0->>'model'), ('option', lines->0->'options'->>0)) as v (kind, name)
			 where $1::int > 0 group by 1, 2, 3`,
	}, []listed{
		{"sales of a year", "/"}, {"sales of three days", "/?from=2026-06-01&to=2026-06-03"},
		{"way of an order", `select '/api/trace/' || md5(($1::int / 2)::text)::uuid`},
	}},
	{"billing", []string{
		`insert into document (number, kind, credits, issued_at, order_id, placed_at, customer_id, name, street, postal_code, city, country, lines, cars, currency, total_cents, vat_percent, vat_cents)
			select n, case when n % 10 = 0 then 'credit_note' else 'invoice' end, case when n % 10 = 0 then n - 1 end, now(), md5(n::text)::uuid, now(), gen_random_uuid(),
			       'Ada', 'Street', '10115', 'Berlin', 'DE', '[{"model": "volta", "options": [], "quantity": 1, "unit_price_cents": 2990000}]', '{[1,2)}', 'EUR', 2990000, 19, 477395
			  from generate_series(1, $1::int) as n`,
		`insert into standing (invoice, order_id, cars) select number, order_id, cars from document where kind = 'invoice' and number % 10 <> 9 and $1::int > 0`,
		`insert into orders (id, version, status, customer_id, lines, total_cents, currency, placed_at, missing)
			select md5(n::text)::uuid, 1, 'placed', gen_random_uuid(), '[{"model": "volta", "options": [], "quantity": 1, "unit_price_cents": 2990000}]', 2990000, 'EUR',
			       now() - n * interval '1 s', case when n % 2 = 1 then '{}' else '{[1,2)}'::int4multirange end
			  from generate_series(1, $1::int) as n`,
	}, []listed{
		{"invoices", "/"}, {"credit notes", "/?kind=credit_note"}, {"invoices, from the middle", `select '/?before=' || $1::int / 2`},
		{"invoices, found", `select '/?q=' || md5(($1::int / 2)::text)::uuid`}, {"invoice", `select '/invoices/' || $1::int / 2 + 1`},
		{"waiting", "/waiting"},
		{"waiting, from the middle", `select '/waiting?before=' || to_char(placed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z,"') || id from orders where id = md5(($1::int / 2)::text)::uuid`},
		{"way of an order", `select '/api/trace/' || md5(($1::int / 2)::text)::uuid`},
	}},
	{"shipping", []string{
		`insert into orders (id, version, status, customer_id, models) select md5(n::text)::uuid, 1, 'placed', gen_random_uuid(), '{volta}' from generate_series(1, $1::int) as n`,
		`insert into build (id, version, status, order_id, customer_id, car, model)
			select md5('build' || n)::uuid, 1, 'finished', md5(n::text)::uuid, gen_random_uuid(), 1, 'volta' from generate_series(1, $1::int) as n`,
		`insert into shipment (id, version, status, order_id, customer_id, car, model, ready_at, shipped_at, updated_at)
			select md5('shipment' || n)::uuid, 1, status, md5(n::text)::uuid, gen_random_uuid(), 1, 'volta',
			       case when status = 'shipped' then now() end, case when status = 'shipped' then now() end, now() - n * interval '1 s'
			  from generate_series(1, $1::int) as n cross join lateral (select (array['shipped', 'stopped', 'waiting'])[1 + n % 3] as status) as s`,
	}, []listed{
		{"overview", "/"}, {"shipments", "/shipments"}, {"shipments, stopped", "/shipments?status=stopped"},
		{"shipments, from the middle", `select '/shipments?before=' || to_char(updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z,"') || id from shipment where id = md5('shipment' || $1::int / 2)::uuid`},
		{"shipments, found", `select '/shipments?q=' || md5('shipment' || $1::int / 2)::uuid`},
		{"shipment", `select '/shipments/' || md5('shipment' || $1::int / 2)::uuid`},
		{"way of an order", `select '/api/trace/' || md5(($1::int / 2)::text)::uuid`},
	}},
	{"mailer", []string{
		`insert into customers (id, version, name, email) select md5(n::text)::uuid, 1, 'Ada', 'ada' || n || '@example.com' from generate_series(1, $1::int) as n`,
		`insert into mail (order_id, customer_id, placed_at, state)
			select md5(n::text)::uuid, md5(n::text)::uuid, now() - n * interval '1 s', (array['sent', 'failed', 'skipped'])[1 + n % 3] from generate_series(1, $1::int) as n`,
	}, []listed{
		{"mails", "/"}, {"mails, failed", "/?state=failed"},
		{"mails, from the middle", `select '/?before=' || to_char(placed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z,"') || order_id from mail where order_id = md5(($1::int / 2)::text)::uuid`},
		{"mails, found", `select '/?q=' || md5(($1::int / 2)::text)::uuid`}, {"mail", `select '/mails/' || md5(($1::int / 2)::text)::uuid`},
		{"way of an order", `select '/api/trace/' || md5(($1::int / 2)::text)::uuid`},
	}},
}

// services measures the pages of the services over short and long tables.
func (g *growth) services(ctx context.Context) (chart, error) {
	rows := []int{g.shortest(), g.longest()}
	fmt.Fprintf(g.out, "\nServices: each page over tables of %s and of %s rows, %d rounds by turns. CPU is that of the service and PostgreSQL\n", count(rows[0]), count(rows[1]), g.rounds)
	t := g.out.table("service", "page", "ms at "+count(rows[0]), "at "+count(rows[1]), "CPU : CPU", "time : time")
	c := chart{title: "The slowest page of a service (shorter is better)", unit: " ms", series: []string{count(rows[0]) + " rows", count(rows[1]) + " rows"}}
	for _, l := range listers {
		times, err := g.list(ctx, l, rows, t)
		if err != nil {
			return chart{}, fmt.Errorf("%s: %w", l.kind, err)
		}
		c.groups = append(c.groups, group{l.kind, times})
	}
	return c, t.flush()
}

// list measures the pages of one service, adds them to the table and returns the times of the slowest one.
func (g *growth) list(ctx context.Context, l lister, rows []int, t *table) (slowest []float64, err error) {
	services, paths := make([]*process, len(rows)), make([][]string, len(rows))
	for i, n := range rows {
		db, err := g.create(ctx, fmt.Sprintf("%s_%d", l.kind, n), emptyTemplate)
		if err != nil {
			return nil, err
		}
		defer g.drop(context.WithoutCancel(ctx), db) // else all of them fill the disk
		if services[i], err = g.startService(ctx, l.kind, db); err != nil {
			return nil, err
		}
		defer services[i].stop()
		for _, statement := range l.fill {
			if _, err := db.Exec(ctx, statement, n); err != nil {
				return nil, err
			}
		}
		if _, err := db.Exec(ctx, `vacuum analyze`); err != nil {
			return nil, err
		}
		for _, p := range l.pages {
			path := p.path
			if strings.HasPrefix(path, "select ") {
				if err := db.QueryRow(ctx, p.path, n).Scan(&path); err != nil {
					return nil, fmt.Errorf("%s: %w", p.name, err)
				}
			}
			paths[i] = append(paths[i], path)
		}
	}
	for k, p := range l.pages {
		sums, err := g.alternate(len(rows), 5, func(contestant, _ int) (took, error) {
			s := services[contestant]
			return g.spend(&s, func() error { return s.read(ctx, paths[contestant][k], "text/html, */*;q=0.5") })
		})
		if err != nil {
			return nil, err
		}
		short, long := sums[0], sums[1]
		times := []float64{median(short.time), median(long.time)}
		t.row(l.kind, p.name, number(times[0]), number(times[1]), ratios(long.cpu, short.cpu), ratios(long.time, short.time))
		if slowest == nil || times[1] > slowest[1] {
			slowest = times
		}
	}
	return slowest, nil
}

// emptyTemplate has no tables.
const emptyTemplate = "template0"

// startService starts a service that nothing comes to, and returns when it has made its tables.
func (g *growth) startService(ctx context.Context, kind string, db *postgres.DB) (*process, error) {
	addr, err := freeport.Addr(ctx)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{"ADDR": addr, "DATA_DIR": filepath.Join(g.dir, db.Config().ConnConfig.Database), "ACCESS": "open", "LOG_LEVEL": "error", "ACCESS_LOG": "false"}
	for _, name := range []string{"ORDERS", "BUILDS", "SHIPMENTS", "CUSTOMERS"} {
		settings["FEED_URL_"+name] = "http://127.0.0.1:1/feeds/none" // where nobody listens
	}
	s, err := g.start(ctx, kind, db.Config().ConnString(), settings)
	if err != nil {
		return nil, err
	}
	return s, eventually(ctx, func() (bool, error) {
		select {
		case <-s.ended:
			return false, s.complaint()
		default:
			return s.read(ctx, "/livez", "*/*") == nil, nil
		}
	})
}
