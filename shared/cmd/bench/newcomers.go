package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
)

// A firstCopy is of a feed, in one of two ways.
type firstCopy struct {
	*grown
	way      string
	settings map[string]string
	once     bool // in one round only, since it takes long

	seconds         []float64 // by round
	memory, sources float64   // most MB
}

const (
	bySnapshot = "snapshot"
	byReplay   = "all versions"
)

func (g *growth) newcomers(ctx context.Context) (chart, error) {
	one, many, alike := size{g.longest(), 1}, size{g.longest(), manyVersions}, size{g.longest() / manyVersions, 1}
	fmt.Fprintf(g.out, "\nNewcomers: a pure copy, from the start of its process until all is committed, from a source just started; %d rounds by turns of those of %s entities\n",
		g.rounds, count(alike.entries))
	if err := g.open(ctx, one, many, alike); err != nil {
		return chart{}, err
	}
	var all []*firstCopy
	for _, s := range []size{one, many, alike} {
		long := s.entries/s.versions > alike.entries
		all = append(all,
			&firstCopy{grown: g.grown[s], way: byReplay, settings: map[string]string{shop.Replay: "true"}, once: s.entries > alike.entries},
			&firstCopy{grown: g.grown[s], way: bySnapshot, once: long})
	}
	for round := range g.rounds {
		for turn := range all {
			n := all[(turn+round)%len(all)]
			if n.once && round > 0 {
				continue
			}
			if err := g.copy(ctx, n); err != nil {
				return chart{}, fmt.Errorf("%s of %s entries: %w", n.way, count(n.entries), err)
			}
		}
	}
	t := g.out.table("entries", "versions", "way", "s", "entities/s", "most MB", "source's MB")
	c := chart{title: "What a newcomer takes (shorter is better)", unit: " s", series: []string{byReplay, bySnapshot}}
	for i, n := range all {
		entities := n.entries / n.versions
		t.row(count(n.entries), count(n.versions), n.way, number(median(n.seconds)), number(float64(entities)/median(n.seconds)), number(n.memory), number(n.sources))
		if i%2 == 0 {
			c.groups = append(c.groups, group{name: fmt.Sprintf("%s × %d", count(entities), n.versions)})
		}
		last := &c.groups[len(c.groups)-1]
		last.values = append(last.values, median(n.seconds))
	}
	if err := t.flush(); err != nil {
		return chart{}, err
	}
	of := func(s size) []float64 {
		return all[slices.IndexFunc(all, func(n *firstCopy) bool { return n.size == s && n.way == bySnapshot })].seconds
	}
	fmt.Fprintf(g.out, "by snapshot, %s entities of %d versions : as many of one: %s\n", count(alike.entries), manyVersions, ratios(of(many), of(alike)))
	return c, nil
}

func (g *growth) copy(ctx context.Context, n *firstCopy) error {
	db, err := g.fresh(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	source, err := g.start(ctx, feedKind, n.db.Config().ConnString(), n.settings)
	if err != nil {
		return err
	}
	defer source.stop()
	var head, entities int // appends have come since the feed was filled
	err = n.db.QueryRow(ctx, `select max(position), max(position) - $1 + $2 from feed_entry`, n.entries, n.entries/n.versions).Scan(&head, &entities)
	if err != nil {
		return err
	}
	took, memory, err := g.copyFeed(ctx, shop.PureCopy, source.addr, db, head, nil)
	if err != nil {
		return err
	}
	n.seconds, n.memory = append(n.seconds, took.Seconds()), max(n.memory, float64(memory)/1e6)
	if _, memory, err = source.memory(); err != nil {
		return err
	}
	n.sources = max(n.sources, float64(memory)/1e6)
	var rows, versions int
	if err := db.QueryRow(ctx, `select count(*), sum(version) from orders`).Scan(&rows, &versions); err != nil {
		return err
	}
	if rows != entities || versions != head {
		return fmt.Errorf("the copy has %d rows with versions of %d together; want %d and %d", rows, versions, entities, head)
	}
	return nil
}
