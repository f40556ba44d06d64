package copier

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// One process copies several feeds, also those that are called as tables of the engine are or as keywords: whole, into
// columns that it infers, and into a table that is there.
func TestCopy(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	s := newSource(t, "subscription", "select", "price-list")
	db := pgtest.New(t)
	exec1(t, db, `create schema shop; create table shop."Price List" (id uuid primary key, version bigint not null, cents smallint check (cents > 0), "in stock" boolean, note text default 'ours')`)
	tables := map[string]string{
		"TABLE_SELECT":     "select(order=id, group ,At,net,paid?,by,lines)",
		"TABLE_PRICE_LIST": "shop.Price List(cents,in stock=inStock)",
	}
	s.put(t, "subscription", 1, `{"a": [1, null]}`, `{"b": "\u00e9"}`, `{}`, `{"a": 4}`)
	s.put(t, "subscription", 4, "")
	s.put(t, "select", 1,
		`{"id": 7, "group": "a", "At": "2026-11-23T12:00:00.5Z", "net": 10.50, "by": null, "lines": [{"n": 1}]}`,
		`{"id": 8, "group": null, "At": null, "net": 1, "by": null, "lines": null, "paid": true}`)
	s.put(t, "price-list", 1, `{"cents": 5, "inStock": true}`, `{"cents": -1, "inStock": true}`, `{"cents": 100000, "inStock": false}`, `{"cents": 9, "inStock": null}`)
	p := s.start(t, db, tables, "subscription", "select", "price-list")
	for _, feed := range []string{"subscription", "select", "price-list"} {
		p.upToDate(t, s, feed)
	}
	want(t, db, `select version, entity, updated > now() - interval '1 hour' from public.subscription`, `(1,"{""a"": [1, null]}",t) (1,"{""b"": ""é""}",t) (1,{},t)`)
	want(t, db, `select "order", "group", "At", net, paid, by, lines from public."select"`,
		`(7,a,"2026-11-23 12:00:00.5+00",10.50,,,"[{""n"": 1}]") (8,,,1,t,,)`)
	want(t, db, `select attname, atttypid::regtype from pg_attribute where attrelid = 'public.select'::regclass and attnum > 2`,
		`(At,"timestamp with time zone") (by,text) (group,text) (lines,jsonb) (net,numeric) (order,bigint) (paid,boolean)`)
	want(t, db, `select cents, "in stock", note from shop."Price List"`, `(5,t,ours) (9,,ours)`)
	eventually(t, "what does not fit is put aside", func() bool { return p.status(t, "price-list").RejectedEntries == 2 })
	if text := p.Log(t); strings.Contains(text, "100000") {
		t.Error("the log quotes an entry")
	}

	// A misfit is mended by a change of the type.
	p.Kill()
	exec1(t, db, `alter table shop."Price List" alter cents type bigint`)
	p = s.start(t, db, tables, "subscription", "select", "price-list")
	eventually(t, "what fits now is applied", func() bool { return p.status(t, "price-list").RejectedEntries == 1 })
	want(t, db, `select cents from shop."Price List"`, `(100000) (5) (9)`)

	// An erased entity goes, also from a table that is restored.
	if err := s.log.InTx(t.Context(), func(tx *publish.Tx) error {
		tx.Erase("select", numbered(1), 0, time.Time{})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	p.upToDate(t, s, "select")
	want(t, db, `select "order" from "select"`, `(8)`)
	exec1(t, db, `insert into "select" (id, version, "order") values ($1, 1, 7)`, numbered(1))
	s.put(t, "select", 3, `{"id": 9, "group": "a", "At": null, "net": 1, "by": 3, "lines": null}`)
	eventually(t, "it is erased again", func() bool {
		var n int
		return db.QueryRow(t.Context(), `select count(*) from "select" where id = $1`, numbered(1)).Scan(&n) == nil && n == 0
	})
	p.upToDate(t, s, "select")
	want(t, db, `select "order", by from "select"`, `(8,) (9,3)`)
	for _, part := range []string{`subscription_polls_total`, `feed="price-list"`} {
		if !strings.Contains(p.get(t, "/metrics"), part) {
			t.Errorf("the metrics lack %s", part)
		}
	}
	p.get(t, "/readyz")
}

// Members that the source does not publish pause the copy; a column that is added is filled by a resync.
func TestColumns(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	s := newSource(t, "orders")
	db := pgtest.New(t)
	start := func(table string) process {
		return s.start(t, db, map[string]string{"TABLE_ORDERS": table}, "orders")
	}
	s.down.Store(true)
	p := start("purchase(status)")
	p.says(t, "orders", "503")
	want(t, db, `select * from purchase`, ``)
	s.down.Store(false)
	p.upToDate(t, s, "orders")
	s.put(t, "orders", 1, `{"status": "placed"}`, `{"status": "paid"}`)
	p.upToDate(t, s, "orders")
	want(t, db, `select status from purchase`, `(paid) (placed)`)
	p.Kill()

	p = start("purchase(status,total)")
	p.says(t, "orders", `, at position 1, has no member "total", which TABLE_ORDERS names`)
	want(t, db, `select attname from pg_attribute where attrelid = 'purchase'::regclass and attnum > 0`, `(id) (status) (version)`)
	s.put(t, "orders", 1, `{"status": "placed", "total": 7}`)
	p.says(t, "orders", `, at position 2, has no member "total"`)
	want(t, db, `select version, status from purchase`, `(1,paid) (1,placed)`)
	s.put(t, "orders", 2, `{"status": "paid", "total": null}`)
	p.upToDate(t, s, "orders")
	want(t, db, `select status, total from purchase`, `(paid,) (placed,7)`)
	if got := p.status(t, "orders"); got.Generation != 2 {
		t.Errorf("the generation is %d", got.Generation)
	}

	// In the middle of the feed, and it goes on by itself, by a deletion too.
	before := p.status(t, "orders").Cursor
	s.put(t, "orders", 3, `{"status": "new"}`)
	p.says(t, "orders", `has no member "total"`)
	if got := p.status(t, "orders"); got.Cursor != before || got.FailingSince == nil {
		t.Errorf("it is at %s since %v", got.Cursor, got.FailingSince)
	}
	resp, err := http.Post(p.URL+"/subscriptions/orders/poll", "", nil)
	if err != nil || resp.StatusCode != http.StatusBadGateway {
		t.Error(resp.Status, err)
	}
	resp.Body.Close()
	s.put(t, "orders", 3, "")
	p.upToDate(t, s, "orders")
	if got := p.status(t, "orders"); got.Generation != 2 {
		t.Errorf("the generation is %d", got.Generation)
	}
	p.Kill()

	// A column that was left out, and one that was dropped, are filled again.
	p = start("purchase(total)")
	s.put(t, "orders", 1, `{"status": "sent", "total": 7}`)
	p.upToDate(t, s, "orders")
	want(t, db, `select status, total from purchase`, `(paid,) (placed,7)`)
	p.Kill()
	exec1(t, db, `alter table purchase drop column total`)
	p = start("purchase(status,total)")
	p.upToDate(t, s, "orders")
	want(t, db, `select status, total from purchase`, `(paid,) (sent,7)`)

	// One that is dropped meanwhile is not made again without its values.
	exec1(t, db, `alter table purchase drop column total`)
	s.put(t, "orders", 4, `{"status": "new", "total": 1}`)
	p.says(t, "orders", `column "total" of relation "purchase" does not exist`)
	p.Kill()
	p = start("purchase(status,total)")
	p.upToDate(t, s, "orders")
	want(t, db, `select status, total from purchase`, `(new,1) (paid,) (sent,7)`)
	p.Kill()

	// The whole entity beside columns, a table that is dropped, and one that is emptied.
	p = start("purchase")
	p.upToDate(t, s, "orders")
	want(t, db, `select entity, updated is not null from purchase`, `("{""total"": 1, ""status"": ""new""}",t) ("{""total"": 7, ""status"": ""sent""}",t) ("{""total"": null, ""status"": ""paid""}",t)`)
	p.Kill()
	exec1(t, db, `drop table purchase`)
	p = start("purchase")
	p.upToDate(t, s, "orders")
	want(t, db, `select count(entity) from purchase`, `(3)`)
	p.Kill()
	exec1(t, db, `truncate purchase; alter table purchase drop column entity`)
	p = start("purchase")
	p.upToDate(t, s, "orders")
	want(t, db, `select count(entity) from purchase`, `(3)`)
}

// Killed again and again while it copies and the source appends, it ends with what the source has.
func TestKilled(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	s := newSource(t, "orders", "invoices")
	db := pgtest.New(t)
	tables := map[string]string{"TABLE_ORDERS": "purchase(number=id,status)"}
	const most = 3000
	version := 0
	publish := func(from, to int) {
		version++
		for n := from; n <= to; n += 500 {
			var entities []string
			for i := n; i < min(n+500, to+1); i++ {
				entities = append(entities, fmt.Sprintf(`{"id": %d, "status": "v%d"}`, i, version))
			}
			s.put(t, "orders", n, entities...)
			s.put(t, "invoices", n, entities...)
		}
	}
	publish(1, most)
	for i := range 6 {
		p := s.start(t, db, tables, "orders", "invoices")
		time.Sleep(time.Duration(i) * 60 * time.Millisecond)
		publish(1+i*100, 400+i*100)
		s.put(t, "orders", 2000+i, "")
		p.Kill()
	}
	tables["TABLE_ORDERS"] = "purchase(number=id,status,again=status)"
	p := s.start(t, db, tables, "orders", "invoices")
	time.Sleep(100 * time.Millisecond)
	p.Kill()
	p = s.start(t, db, tables, "orders", "invoices")
	p.upToDate(t, s, "orders")
	p.upToDate(t, s, "invoices")
	const newest = `select distinct on (entity_id) entity_id as id, version, convert_from(payload, 'UTF8')::jsonb as entity from feed_entry where feed = `
	digest := func(query string) string {
		return `select count(*), md5(string_agg(row::text, '|' order by id)) from (` + query + `) as row`
	}
	for table, published := range map[string][2]string{
		"orders":   {`select id, version, (entity ->> 'id')::bigint, entity ->> 'status', entity ->> 'status' from (` + newest + `'orders' order by entity_id, version desc) as e where entity is not null`, `select id, version, number, status, again from purchase`},
		"invoices": {`select * from (` + newest + `'invoices' order by entity_id, version desc) as e where entity is not null`, `select id, version, entity from invoices`},
	} {
		var wanted string
		if err := s.pool.QueryRow(t.Context(), `select r::text from (`+digest(published[0])+`) as r`).Scan(&wanted); err != nil {
			t.Fatal(table, err)
		}
		want(t, db, digest(published[1]), wanted)
	}
}

// Tables that are not copies are refused in clear words, and stay as they are.
func TestRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	exec1(t, db, `
		create table customer (id bigint primary key, name text);
		create view seen as select 1 as id;
		create table unkeyed (id uuid, version bigint);
		create table full_one (id uuid primary key, version bigint, status text);
		insert into full_one values (gen_random_uuid(), 1, 'placed');
		create table strict (id uuid primary key, version bigint, status text, note text not null);
		create unlogged table fleeting (id uuid primary key, version bigint);
		create table parted (id uuid primary key, version bigint) partition by hash (id);
		create unlogged table part partition of parted for values with (modulus 1, remainder 0);
		create table ruled (id uuid primary key, version bigint);
		create rule kept as on delete to ruled do instead nothing;
		create table soft (id uuid primary key, version bigint);
		create function keep() returns trigger language plpgsql as 'begin return null; end';
		create trigger keeper before delete on soft for each row execute function keep()`)
	for setting, says := range map[string]string{
		"customer":                 "the table public.customer exists and is no copy of a feed",
		"unkeyed(status)":          "the table public.unkeyed exists and is no copy of a feed",
		"seen":                     "public.seen exists and is no table",
		"full_one(status)":         "the table public.full_one exists and has rows that are no copy of this feed",
		"strict(status)":           "the column note of the table public.strict is not null",
		"fleeting":                 "the table public.fleeting is unlogged or temporary",
		"parted":                   "the table public.parted is unlogged or temporary",
		"pg_temp.purchase":         "the schema pg_temp is one of PostgreSQL's own",
		"ruled":                    "the table public.ruled has rules",
		"soft":                     "the trigger keeper of the table public.soft runs before",
		"absent.purchase":          `schema "absent" does not exist`,
		"purchase(a,b,a)":          "the column a comes twice",
		"purchase()":               `"" is no name`,
		"purchase(a,)":             `"" is no name`,
		"purchase(id)":             "every copy has a column id of its own; to copy the member of that name, name its column: my_id=id",
		"purchase(number=id,xmin)": "xmin is a system column of PostgreSQL; name another one: my_xmin=xmin",
		"purchase(a=)":             "the column a has no member",
		"purchase(a":               "it has another form",
		`"purchase"(a)`:            `"\"purchase\"" is no name`,
		"copy.purchase":            "the schema copy is that of the command's own tables",
		strings.Repeat("x", 64):    "names have 1 to 63 bytes",
	} {
		env := map[string]string{"ADDR": "127.0.0.1:0", "DATABASE_URL": pgtest.URL(db), "FEED_URL_ORDERS": "http://127.0.0.1:1/feeds/orders", "TABLE_ORDERS": setting}
		if err := run(t.Context(), env, io.Discard, nil); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "TABLE_ORDERS") {
			t.Errorf("%s: %v", setting, err)
		}
	}
	for says, env := range map[string]map[string]string{
		"copy takes the URLs of feeds":                          {"TABLE_ORDERS": "purchase"},
		"TABLE_A and TABLE_B name the same table, purchase":     {"FEED_URL_A": "http://a.example", "FEED_URL_B": "http://b.example", "TABLE_A": "purchase", "TABLE_B": "purchase(a)"},
		"POLL_WAIT is a setting of all feeds":                   {"FEED_URL_WAIT": "http://a.example"},
		"FEED_URL_A takes the http or https URL of a feed with": {"FEED_URL_A": "orders"},
	} {
		if err := run(t.Context(), env, io.Discard, nil); !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v", env, err)
		}
	}
	want(t, db, `select status from full_one`, `(placed)`)
	var out bytes.Buffer
	_ = run(t.Context(), map[string]string{"FEED_URL_ORDERS": "orders", "TABLE_ORDER": "purchase", "POLL_ORDER": "x"}, &out, nil)
	for _, name := range []string{"TABLE_ORDER ", "POLL_ORDER "} {
		if !strings.Contains(out.String(), "name="+name) {
			t.Errorf("it does not warn of %s: %s", name, &out)
		}
	}
}

// Two sources of one feed fill one table. A column that comes later is filled by a resync of each.
func TestTwoSources(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	eu, us, db := newSource(t, "things"), newSource(t, "things"), pgtest.New(t)
	eu.put(t, "things", 1, `{"a": 1, "b": 10}`, `{"a": 2, "b": 20}`)
	us.put(t, "things", 3, `{"a": 3, "b": 30}`)
	tables := map[string]string{"FEED_URL_THINGS": "eu=" + eu.url + "things us=" + us.url + "things", "POLL_THINGS": "@every 1s", "TABLE_THINGS": "thing(a)"}
	p := eu.start(t, db, tables)
	p.upToDateAs(t, eu, "things", "things@eu")
	p.upToDateAs(t, us, "things", "things@us")
	want(t, db, `select a from thing`, `(1) (2) (3)`)
	p.Kill()
	tables["TABLE_THINGS"] = "thing(a,b)"
	p = eu.start(t, db, tables)
	eventually(t, "both are read again", func() bool {
		return p.status(t, "things@eu").Generation == 2 && p.status(t, "things@us").Generation == 2
	})
	want(t, db, `select a, b from thing`, `(1,10) (2,20) (3,30)`)
}
