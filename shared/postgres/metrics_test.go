package postgres_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// scrape returns the metrics by name, as one scrape has them.
func scrape(t *testing.T, pool *pgxpool.Pool) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(postgres.NewMetrics(pool))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		found[strings.TrimPrefix(f.GetName(), "postgres_")] = f.GetMetric()[0].GetGauge().GetValue()
	}
	return found
}

// What holds back VACUUM is seen, whatever it is, and so is a listener that does not read; a database that does not
// answer does not hold up a scrape.
func TestMetrics(t *testing.T) {
	t.Parallel()
	db := open(t, postgres.Volatile(postgres.Config{Dir: pgtest.Dir(t), Name: "measured"}), parts)
	exec := func(conn *pgxpool.Conn, sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	session := func() *pgxpool.Conn {
		conn, err := db.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Release)
		return conn
	}
	if m := scrape(t, db.Pool); m["oldest_snapshot_seconds"] != 0 || m["oldest_snapshot_transactions"] != 0 || m["notification_queue_ratio"] != 0 || len(m) != 3 {
		t.Errorf("at rest: %v", m)
	}
	reader, writer := session(), session()
	for name, begin := range map[string][]string{
		"a snapshot":                     {`begin isolation level repeatable read`, `select count(*) from part`},
		"a transaction that has written": {`begin`, `insert into part values ('wheel')`},
	} {
		for _, sql := range begin {
			exec(reader, sql)
		}
		for range 2 {
			exec(writer, `insert into part values ('x')`)
			exec(writer, `delete from part where name = 'x'`)
		}
		eventually(t, name+" is seen", func() bool {
			m := scrape(t, db.Pool)
			return m["oldest_snapshot_seconds"] > 0.2 && m["oldest_snapshot_transactions"] >= 2
		})
		exec(reader, `rollback`)
		if m := scrape(t, db.Pool); m["oldest_snapshot_transactions"] != 0 {
			t.Errorf("%s, after its end: %v", name, m)
		}
	}

	exec(reader, `listen news`)
	exec(reader, `begin`) // a session reads no notification in a transaction
	exec(writer, `select pg_notify('news', repeat('x', 7000) || n) from generate_series(1, 200) n`)
	if m := scrape(t, db.Pool); m["notification_queue_ratio"] <= 0 {
		t.Errorf("with a listener that does not read: %v", m)
	}
	exec(reader, `rollback`)

	for range db.Config().MaxConns - 2 { // all that there are
		session()
	}
	began := time.Now()
	if m := scrape(t, db.Pool); len(m) != 0 || time.Since(began) > 30*time.Second {
		t.Errorf("of a database that does not answer after %v: %v", time.Since(began), m)
	}
}
