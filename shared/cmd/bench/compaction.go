package main

import (
	"context"
	"fmt"

	"github.com/edison-cars/data-feeds/shared/order"
)

const noCompaction = "Compaction is left out: there is no feed_compact, or no extension pgstattuple"

// inUse is the space in use of the log and its indexes.
const inUse = `
	select sum(t.table_len - t.free_space)::float8
	  from (select 'feed_entry'::regclass as oid union all select indexrelid from pg_index where indrelid = 'feed_entry'::regclass) as r, pgstattuple(r.oid) as t`

// compaction measures the space that superseded entries take before and after it.
func (g *growth) compaction(ctx context.Context) (chart, error) {
	s := size{min(g.longest(), 100_000), manyVersions}
	fmt.Fprintf(g.out, "\nCompaction: the space in use by %s entries, %d versions of each entity, with indexes, before, and after it and a VACUUM\n", count(s.entries), s.versions)
	if err := g.open(ctx, s); err != nil {
		return chart{}, err
	}
	db := g.grown[s].db
	var offered bool
	err := db.QueryRow(ctx, `
		select exists (select from pg_proc where proname = 'feed_compact') and exists (select from pg_available_extensions where name = 'pgstattuple')`).Scan(&offered)
	if err != nil {
		return chart{}, err
	}
	if !offered {
		fmt.Fprintln(g.out, noCompaction)
		return chart{}, nil
	}
	var before, after, payload float64
	for _, step := range []struct {
		sql  string
		into *float64
	}{
		{`create extension if not exists pgstattuple`, nil}, {`vacuum feed_entry`, nil}, {inUse, &before},
		{`select avg(length(payload))::float8 from feed_entry`, &payload},
		{`call feed_compact('` + order.Feed + `', '0')`, nil}, {`vacuum feed_entry`, nil}, {inUse, &after},
	} {
		if step.into == nil {
			_, err = db.Exec(ctx, step.sql)
		} else {
			err = db.QueryRow(ctx, step.sql).Scan(step.into)
		}
		if err != nil {
			return chart{}, err
		}
	}
	each := before / float64(s.entries)
	superseded := s.entries - s.entries/s.versions
	left := (after - each*float64(s.entries-superseded)) / float64(superseded)
	t := g.out.table("superseded", "payload bytes", "bytes/entry", "after", "after : before")
	t.row(count(superseded), number(payload), number(each), number(left), number(left/each))
	return chart{title: "Space of a superseded entry (shorter is better)", unit: " bytes", series: []string{"with its indexes"},
		groups: []group{{"before", []float64{each}}, {"compacted", []float64{left}}}}, t.flush()
}
