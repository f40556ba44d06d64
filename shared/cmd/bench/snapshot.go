package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The statements that an old snapshot could slow down. No commit waits for a disk meanwhile, which would hide that.
var underSnapshot = []struct{ name, sql string }{
	{"append", `
		with head as (select name, position, digest from feed_head), entity as (select sha256('x') as hash)
		select feed_append(name, position, digest, array[
		       row (name, position + 1, 'put', gen_random_uuid(), 1, now(), '{}', hash, hash, sha256(digest))]::feed_entry[], null) from head, entity`},
	{"look at the head", `select position, digest, is_whole from feed_head`},
}

const (
	snapshotTurns = 40 // of each database
	perTurn       = 50 // statements
)

// snapshot measures appends and looks at the head of two databases in turn. In one of them a session keeps a snapshot, as
// pg_dump does, that is p.held appends old.
func (p *publishing) snapshot(ctx context.Context) (chart, error) {
	fmt.Fprintf(p.out, "\nUnder an old snapshot: one client, no flush, %s appends after a snapshot that is kept, and without one, by turns\n", count(p.held))
	var clients []*pgx.Conn // of a database without and one with an old snapshot
	for _, name := range []string{"calm", "held"} {
		db, err := p.server.create(ctx, name)
		if err != nil {
			return chart{}, err
		}
		defer db.Close()
		client, err := db.Acquire(ctx)
		if err != nil {
			return chart{}, err
		}
		defer client.Release()
		if _, err := client.Exec(ctx, `select feed_create('appended'), set_config('synchronous_commit', 'off', false)`); err != nil {
			return chart{}, err
		}
		clients = append(clients, client.Conn())
		if name == "calm" {
			continue
		}
		old, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return chart{}, err
		}
		defer func() { _ = old.Rollback(context.WithoutCancel(ctx)) }()
		if _, err := old.Exec(ctx, `select from feed`); err != nil {
			return chart{}, err
		}
	}
	for _, client := range clients {
		if _, err := repeat(ctx, client, underSnapshot[0].sql, p.held); err != nil {
			return chart{}, err
		}
	}
	t := p.out.table("statement", "us", "us under the snapshot", "with : without")
	c := chart{title: "A statement under an old snapshot (shorter is better)", unit: " us", series: []string{"without", "with"}}
	for _, s := range underSnapshot {
		var took [2][]float64
		for range snapshotTurns {
			for i, client := range clients {
				us, err := repeat(ctx, client, s.sql, perTurn)
				if err != nil {
					return chart{}, err
				}
				took[i] = append(took[i], us)
			}
		}
		without, with := median(took[0]), median(took[1])
		t.row(s.name, number(without), number(with), number(with/without))
		c.groups = append(c.groups, group{s.name, []float64{without, with}})
	}
	return c, t.flush()
}

// repeat returns the microseconds that the statement takes.
func repeat(ctx context.Context, client *pgx.Conn, sql string, n int) (us float64, err error) {
	began := time.Now()
	for range n {
		if _, err := client.Exec(ctx, sql); err != nil {
			return 0, err
		}
	}
	return float64(time.Since(began).Microseconds()) / float64(n), nil
}
