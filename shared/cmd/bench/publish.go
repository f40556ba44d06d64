package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/dev/freeport"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// publishing measures tables that are attached to feeds, against the same tables that are not.
type publishing struct {
	*bench
	server   *cluster
	rounds   int
	duration time.Duration // of one table in one round
	fresh    time.Duration // of inserting for one reader
	rows     int           // to backfill
	held     int           // appends since the snapshot that is held
}

var clientCounts = []int{1, 8, 32}

// The tables. A feed has the name of its table.
const (
	plainTable  = "plain"
	stagedTable = "staged"
	commitTable = "committed"
)

const (
	insertRow = `insert into %s (customer_id, status, total, note)
		values (gen_random_uuid(), 'placed', random() * 1000, repeat('x', 200))`
	columns = `customer_id uuid not null, status text not null, total numeric(9,2) not null, note text not null,
		at timestamptz not null default now()`
)

// attach makes a table with a key of this type and publishes it, unless mode is empty.
func (p *publishing) attach(ctx context.Context, table, key, mode string) error {
	if _, err := p.source.Exec(ctx, fmt.Sprintf(`create table %s (id %s primary key, %s)`, table, key, columns)); err != nil {
		return err
	}
	if mode == "" {
		return nil
	}
	return p.publishTable(ctx, table, mode)
}

func (p *publishing) publishTable(ctx context.Context, table, mode string) error {
	if _, err := p.source.Exec(ctx, `select feed_create($1)`, table); err != nil {
		return err
	}
	_, err := p.source.Exec(ctx, `select feed_attach($1, $2::text::regclass, 'id', mode => $3)`, table, table, mode)
	return err
}

const identity = "bigint generated always as identity"

// insertRates measures inserts a second, one row to a transaction. No process serves the feeds meanwhile: what a round has
// staged is appended after it.
func (p *publishing) insertRates(ctx context.Context) (chart, error) {
	fmt.Fprintf(p.out, "\nInserts: rows a second, one to a transaction, %d rounds of %v; what is staged is appended after each round\n",
		p.rounds, p.duration)
	for table, mode := range map[string]string{plainTable: "", stagedTable: "staged", commitTable: "commit"} {
		if err := p.attach(ctx, table, identity, mode); err != nil {
			return chart{}, err
		}
	}
	t := p.out.table("clients", "plain", "staged", "commit", "staged : plain", "commit : plain", "appended/s")
	c := chart{title: "Rows inserted a second (longer is better)", unit: "/s",
		series: []string{"plain", "attached as staged", "attached as commit"}}
	for _, clients := range clientCounts {
		rates, err := p.insertInTurn(ctx, clients)
		if err != nil {
			return chart{}, fmt.Errorf("%d clients: %w", clients, err)
		}
		plain, staged, committed := rates[plainTable], rates[stagedTable], rates[commitTable]
		t.row(fmt.Sprint(clients), number(median(plain)), number(median(staged)), number(median(committed)),
			ratios(staged, plain), ratios(committed, plain), number(median(rates[moves])))
		c.groups = append(c.groups, group{fmt.Sprintf("%d clients", clients),
			[]float64{median(plain), median(staged), median(committed)}})
	}
	c.groups[0].name = "1 client"
	if err := t.flush(); err != nil {
		return chart{}, err
	}
	fmt.Fprintln(p.out, "\ncommit: writers to one feed wait for each other's commit, so more clients do not help; use staged for them.")
	return c, errors.Join(p.complete(ctx, stagedTable), p.complete(ctx, commitTable))
}

const moves = "moves" // of what is staged to the feed

// insertInTurn returns the rates of each table, and those of the moves, by round.
func (p *publishing) insertInTurn(ctx context.Context, clients int) (rates map[string][]float64, err error) {
	db, err := p.openClients(ctx, clients)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rates = map[string][]float64{}
	tables := []string{plainTable, stagedTable, commitTable}
	for round := -1; round < p.rounds; round++ { // the first one warms up
		for turn := range tables {
			table := tables[(turn+max(round, 0))%len(tables)]
			rate, err := p.insert(ctx, db, table, clients)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", table, err)
			}
			moved, err := p.moveAll(ctx, table)
			if err != nil {
				return nil, err
			}
			if round >= 0 {
				rates[table] = append(rates[table], rate)
			}
			if round >= 0 && table == stagedTable {
				rates[moves] = append(rates[moves], moved)
			}
		}
	}
	return rates, nil
}

// insert has clients insert for the duration, and returns the rows a second.
func (p *publishing) insert(ctx context.Context, db *pgxpool.Pool, table string, clients int) (rate float64, err error) {
	if _, err := p.source.Exec(ctx, `checkpoint`); err != nil { // no round pays for another's
		return 0, err
	}
	var rows atomic.Int64
	began := time.Now()
	err = each(ctx, clients, func(ctx context.Context) error {
		for time.Since(began) < p.duration {
			if _, err := db.Exec(ctx, fmt.Sprintf(insertRow, table)); err != nil {
				return err
			}
			rows.Add(1)
		}
		return nil
	})
	return float64(rows.Load()) / time.Since(began).Seconds(), err
}

// openClients connects to the source for so many clients.
func (p *publishing) openClients(ctx context.Context, clients int) (*pgxpool.Pool, error) {
	config := p.source.Config()
	config.MinConns, config.MaxConns = 0, int32(clients)
	return pgxpool.NewWithConfig(ctx, config)
}

// each calls do for each client, all at once.
func each(ctx context.Context, clients int, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			if err := do(ctx); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// moveAll appends what is staged, as a process that serves the feed does, and returns the entries a second.
func (p *publishing) moveAll(ctx context.Context, feedName string) (rate float64, err error) {
	all, began := 0, time.Now()
	for n := 1; n > 0; all += n {
		if err := p.source.QueryRow(ctx, `select feed_move($1)`, feedName).Scan(&n); err != nil {
			return 0, err
		}
	}
	return float64(all) / time.Since(began).Seconds(), nil
}

// complete fails unless the feed has one entry for each row of its table, with the row's key.
func (p *publishing) complete(ctx context.Context, table string) error {
	var missed, doubled int
	err := p.source.QueryRow(ctx, `
		select count(*) filter (where entries is null), coalesce(sum(entries - 1), 0)
		  from (select id::text from `+table+`) as row full join (
		       select convert_from(payload, 'UTF8')::json ->> 'id' as id, count(*) as entries from feed_entry where feed = $1 group by 1) as e using (id)`,
		table).Scan(&missed, &doubled)
	if err == nil && missed+doubled > 0 {
		err = fmt.Errorf("of the rows of %s, %d are missed and %d doubled", table, missed, doubled)
	}
	return err
}

// serve starts a process that serves the feeds of the source, and returns a reader of one that waits there.
func (p *publishing) serve(ctx context.Context, feedName string) (r *reader, end func(), err error) {
	addr, err := freeport.Addr(ctx)
	if err != nil {
		return nil, nil, err
	}
	token, hash := access.NewToken()
	s, err := p.start(ctx, serveKind, p.source.Config().ConnString(), map[string]string{
		"ADDR": addr, "PUBLIC_URL": shop.PublicURL, "DATA_DIR": filepath.Join(p.dir, "app"), "TOKENS": "bench:reader:" + hash,
		"LOG_LEVEL": "warn", "ACCESS_LOG": "false",
	})
	if err != nil {
		return nil, nil, err
	}
	r = &reader{name: "wait", addr: addr, feed: feedName, token: token}
	return r, func() { _, _ = s.stop() }, eventually(ctx, func() (bool, error) {
		select {
		case <-s.ended:
			return false, s.complaint()
		default:
			client := feedclient.New(token)
			defer client.Close()
			_, err := client.Head(ctx, r.url())
			return err == nil, nil // it may not have started yet
		}
	})
}

const freshTable = "fresh"

// freshness measures how long a reader that waits takes to see a row of a table that is attached as staged.
func (p *publishing) freshness(ctx context.Context) (chart, error) {
	fmt.Fprintf(p.out, "\nFreshness: %d inserts a second for %v into a table attached as staged, at random; from the "+
		"commit's return to the page's in a reader that waits\n", ordersPerSecond, p.fresh)
	if err := p.attach(ctx, freshTable, "uuid", "staged"); err != nil {
		return chart{}, err
	}
	r, end, err := p.serve(ctx, freshTable)
	if err != nil {
		return chart{}, err
	}
	defer end()
	w := p.watch(ctx, func(ctx context.Context, saw func(uuid.UUID)) error { return r.follow(ctx, feed.Cursor{}, saw) })
	defer w.stop()
	insert := func(ctx context.Context, id uuid.UUID) (committedAt time.Time, err error) {
		_, err = p.source.Exec(ctx,
			`insert into fresh (id, customer_id, status, total, note) values ($1, $1, 'placed', 100, repeat('x', 200))`, id)
		return time.Now(), err
	}
	took, err := delays(ctx, int(ordersPerSecond*p.fresh.Seconds()), insert, w)
	if err != nil {
		return chart{}, err
	}
	p50, p99 := quantile(took, 0.5), quantile(took, 0.99)
	t := p.out.table("reader", "rows", "p50 ms", "p99 ms", "most ms")
	t.row(r.name, count(len(took)), number(p50), number(p99), number(quantile(took, 1)))
	return chart{title: "From commit to reader (shorter is better)", unit: " ms", series: []string{"p50", "p99"},
		groups: []group{{"staged", []float64{p50, p99}}}}, t.flush()
}

// lateness is after the last change: what is not seen by then is missed.
const lateness = 10 * time.Second

// backfill measures the publishing of rows that are there already, against as many entries inserted by one statement.
func (p *publishing) backfill(ctx context.Context) (chart, error) {
	fmt.Fprintf(p.out, "\nBackfill of %s rows, against insert ... select of as many entries into a table like feed_entry\n", count(p.rows))
	const table = "filled"
	_, err := p.source.Exec(ctx, fmt.Sprintf(`create table filled (id %s primary key, %s)`, identity, columns))
	if err == nil {
		_, err = p.source.Exec(ctx, `insert into filled (customer_id, status, total, note)
			select gen_random_uuid(), 'placed', random() * 1000, repeat('x', 200) from generate_series(1, $1)`, p.rows)
	}
	if err == nil {
		err = p.publishTable(ctx, table, "staged")
	}
	if err != nil {
		return chart{}, err
	}
	for _, command := range []string{`create table peer_entry (like feed_entry including all)`, `vacuum analyze filled`, `checkpoint`} {
		if _, err := p.source.Exec(ctx, command); err != nil {
			return chart{}, err
		}
	}
	began := time.Now()
	_, err = p.source.Exec(ctx, `
		insert into peer_entry
		select 'filled', id, 'put', gen_random_uuid(), 1, now(), payload, uuid_send(gen_random_uuid()), hash, hash
		  from filled as f, convert_to(row_to_json(f)::text, 'UTF8') as payload, sha256(payload) as hash`)
	if err != nil {
		return chart{}, err
	}
	peer := time.Since(began)
	if _, err := p.source.Exec(ctx, `checkpoint`); err != nil {
		return chart{}, err
	}
	_, end, err := p.serve(ctx, table)
	if err != nil {
		return chart{}, err
	}
	defer end()
	began = time.Now()
	if _, err := p.source.Exec(ctx, `select feed_backfill($1)`, table); err != nil {
		return chart{}, err
	}
	err = eventually(ctx, func() (done bool, err error) {
		var failure *string
		err = p.source.QueryRow(ctx, `select finished_at is not null, error from feed_backfill where feed = $1`, table).Scan(&done, &failure)
		if failure != nil {
			err = errors.New(*failure)
		}
		return done, err
	})
	if err != nil {
		return chart{}, err
	}
	backfill := time.Since(began)
	if err := p.complete(ctx, table); err != nil {
		return chart{}, err
	}
	t := p.out.table("way", "rows", "s", "rows/s", ": insert ... select")
	c := chart{title: fmt.Sprintf("%s rows (shorter is better)", count(p.rows)), unit: " s", series: []string{"time"}}
	for _, way := range []struct {
		name string
		took time.Duration
	}{{"insert ... select", peer}, {"feed_backfill", backfill}} {
		s := way.took.Seconds()
		t.row(way.name, count(p.rows), number(s), number(float64(p.rows)/s), number(s/peer.Seconds()))
		c.groups = append(c.groups, group{way.name, []float64{s}})
	}
	return c, t.flush()
}
