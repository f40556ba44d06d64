package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
)

// growth compares feeds and tables of different lengths, side by side on one server, so that only the length differs.
type growth struct {
	*pair
	server     *cluster
	postmaster postmaster // of server
	sizes      []int      // of feeds and tables, the shortest first
	rounds     int
	page       int // entries of a cold page
	grown      map[size]*grown
}

// A size is that of a feed. Each of its entities has as many versions.
type size struct{ entries, versions int }

// A grown feed is in a database of its own, in which no commit waits for the disk.
type grown struct {
	size
	db    *postgres.DB
	bytes float64 // of an entry, indexes included, as it was filled
}

// manyVersions is of each entity of the feeds whose entities do not have only one.
const manyVersions = 20

func (g *growth) shortest() int { return g.sizes[0] }
func (g *growth) longest() int  { return g.sizes[len(g.sizes)-1] }

// fillFeed fills a feed. Like those of a real one, the versions of an entity are far from each other, ids begin with the
// time at which their entity was made, and the digests are those that a reader of the log computes.
const fillFeed = `
	create function fill_feed(feed_name text, entries bigint, versions bigint, template text, id text, at text) returns void language plpgsql as $$
	declare
		running bytea       := sha256(convert_to(feed_name, 'UTF8'));
		began   timestamptz := date_trunc('second', now() - interval '100 days');
		e       record;
	begin
		for e in
			select *, sha256(salt || payload) as hash from (
				select *, uuid_send(gen_random_uuid()) as salt,
				       convert_to(replace(replace(replace(template, id, entity_id::text), '"version":1', '"version":' || version),
				           at, to_char(updated at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')), 'UTF8') as payload
				  from (select position, (position - 1) % (entries / versions) as entity, 1 + (position - 1) / (entries / versions) as version,
				               began + position * interval '1 ms' as updated
				          from generate_series(1, entries) as position) as counted
				 cross join lateral (select (lpad(to_hex((extract(epoch from began) * 1000)::bigint + entity), 12, '0') || '7' || substr(md5(entity::text), 1, 3) ||
				               '8' || substr(md5(entity::text), 4, 15))::uuid as entity_id) as named) as filled
		loop
			running := sha256(running || 'p'::bytea || uuid_send(e.entity_id) || int8send(e.version) ||
				int8send((extract(epoch from e.updated) * 1000000)::bigint) || e.hash);
			insert into feed_entry (feed, position, kind, entity_id, version, updated, payload, salt, payload_hash, digest)
			values (feed_name, e.position, 'put', e.entity_id, e.version, e.updated, e.payload, e.salt, e.hash, running);
		end loop;
	end
	$$`

// template returns an order of about 430 bytes of JSON, and the id and the time in it.
func template() (payload, id, at string, err error) {
	o := shop.NewOrder(shop.NewID())
	o.Lines = o.Lines[:2]
	o.Lines[0].Options, o.Lines[1].Options = o.Lines[0].Options[:1], o.Lines[1].Options[:0]
	text, err := json.Marshal(o)
	if err != nil {
		return "", "", "", err
	}
	quoted, err := json.Marshal(o.UpdatedAt)
	return string(text), o.ID.String(), strings.Trim(string(quoted), `"`), err
}

// open fills the feeds that are not there yet, two at a time.
func (g *growth) open(ctx context.Context, sizes ...size) error {
	began := time.Now()
	var all errgroup.Group
	all.SetLimit(2)
	var missing []*grown
	for _, s := range sizes {
		if g.grown[s] == nil {
			g.grown[s] = &grown{size: s}
			missing = append(missing, g.grown[s])
		}
	}
	slices.SortFunc(missing, func(a, b *grown) int { return b.entries - a.entries }) // the longest takes longest
	for _, f := range missing {
		all.Go(func() error { return g.put(ctx, f) })
	}
	if err := all.Wait(); err != nil || len(missing) == 0 {
		return err
	}
	total := 0
	for _, f := range missing {
		total += f.entries
	}
	fmt.Fprintf(g.out, "%s entries put into %d feeds in %.0f s\n", count(total), len(missing), time.Since(began).Seconds())
	_, err := g.server.Exec(ctx, `checkpoint`)
	return err
}

func (g *growth) put(ctx context.Context, f *grown) (err error) {
	if f.db, err = g.create(ctx, fmt.Sprintf("feed_%d_%d", f.entries, f.versions)); err != nil {
		return err
	}
	if err = f.fill(ctx); err == nil {
		_, err = f.db.Exec(ctx, `vacuum analyze`)
	}
	if err == nil {
		err = f.db.QueryRow(ctx, `select pg_total_relation_size('feed_entry') / $1::float8`, f.entries).Scan(&f.bytes)
	}
	return err
}

func (f *grown) fill(ctx context.Context) error {
	payload, id, at, err := template()
	if err != nil {
		return err
	}
	for _, command := range []string{fillFeed, `select feed_create('` + order.Feed + `')`} {
		if _, err := f.db.Exec(ctx, command); err != nil {
			return err
		}
	}
	_, err = f.db.Exec(ctx, `select fill_feed($1, $2, $3, $4, $5, $6)`, order.Feed, f.entries, f.versions, payload, id, at)
	return err
}

// create makes a database in which no commit waits for the disk, which would hide what grows, and which ends with the
// bench.
func (g *growth) create(ctx context.Context, name string, of ...string) (*postgres.DB, error) {
	db, err := g.server.create(ctx, name, of...)
	if err != nil {
		return nil, err
	}
	if _, err := db.Exec(ctx, `alter database `+name+` set synchronous_commit = off`); err != nil {
		return nil, err
	}
	db.Close() // its sessions are older
	if db, err = g.server.connect(ctx, name); err == nil {
		g.atEnd(db.Close)
	}
	return db, err
}

// drop deletes a database that is needed no more. What it leaves goes with the server.
func (g *growth) drop(ctx context.Context, db *postgres.DB) {
	db.Close()
	_, _ = g.server.Exec(ctx, `drop database if exists `+db.Config().ConnConfig.Database+` with (force)`)
}

// A took is what something took in milliseconds: time, and CPU time of a process and PostgreSQL together.
type took struct{ time, cpu float64 }

// spend returns what do takes. The process may be one that do starts.
func (g *growth) spend(p **process, do func() error) (t took, err error) {
	cpu := func() (sum time.Duration, err error) {
		if *p != nil {
			sum, err = (*p).cpu()
		}
		if err != nil {
			return 0, err
		}
		postgres, err := g.postmaster.cpu()
		return sum + postgres, err
	}
	before, err := cpu()
	if err != nil {
		return t, err
	}
	began := time.Now()
	if err := do(); err != nil {
		return t, err
	}
	t.time = milliseconds(time.Since(began))
	after, err := cpu()
	t.cpu = milliseconds(after - before)
	return t, err
}

// A spent has what something took by round, in milliseconds.
type spent struct{ time, cpu []float64 }

// alternate lets contestants take turns, times times in each round, or once in a quick bench. Of a round it keeps the
// medians.
func (g *growth) alternate(contestants, times int, do func(contestant, again int) (took, error)) ([]spent, error) {
	if g.quick {
		times = 1
	}
	sums := make([]spent, contestants)
	for round := range g.rounds {
		in := make([]spent, contestants)
		for again := range times {
			for turn := range contestants {
				i := (turn + round + again) % contestants
				t, err := do(i, round*times+again)
				if err != nil {
					return nil, err
				}
				in[i].time, in[i].cpu = append(in[i].time, t.time), append(in[i].cpu, t.cpu)
			}
		}
		for i := range sums {
			sums[i].time, sums[i].cpu = append(sums[i].time, median(in[i].time)), append(sums[i].cpu, median(in[i].cpu))
		}
	}
	return sums, nil
}
