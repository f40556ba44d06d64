package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTimeout bounds the query of one scrape.
const scrapeTimeout = 2 * time.Second

// NewMetrics returns a collector for conditions that are otherwise invisible and end badly: what keeps VACUUM from
// removing dead rows, and notifications that a listener does not read. If its query takes longer than two seconds, a
// scrape has none of these metrics.
func NewMetrics(pool *pgxpool.Pool) prometheus.Collector {
	gauge := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return &metrics{
		pool: pool,
		age: gauge("postgres_oldest_snapshot_seconds",
			"Age of the oldest transaction of the database, prepared ones included, that keeps VACUUM from removing rows; 0 if there is none."),
		transactions: gauge("postgres_oldest_snapshot_transactions",
			"How many transactions began since the oldest one that keeps VACUUM from removing rows, also by a replication slot; 0 if there is none."),
		queue: gauge("postgres_notification_queue_ratio",
			"Part of the server's notification queue, 0 to 1, that a listening session has not read; where it is 1, NOTIFY fails."),
	}
}

type metrics struct {
	pool                     *pgxpool.Pool
	age, transactions, queue *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.age
	ch <- m.transactions
	ch <- m.queue
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	var age, transactions, queue float64
	// A session of another database holds nothing back here, but a standby with hot_standby_feedback does. VACUUM
	// ignores itself.
	err := m.pool.QueryRow(ctx, `
		with holder (xmin, began) as (
			select x.xmin, xact_start
			  from pg_stat_activity, unnest(array[backend_xid, backend_xmin]) as x (xmin)
			 where (datname = current_database() or backend_type = 'walsender')
			   and pid <> pg_backend_pid() and backend_type <> 'autovacuum worker' and coalesce(query, '') !~* '^\s*vacuum'
			union all
			select transaction, prepared from pg_prepared_xacts where database = current_database()
			union all
			select x.xmin, null
			  from pg_replication_slots, unnest(array[xmin, catalog_xmin]) as x (xmin))
		select coalesce(extract(epoch from max(clock_timestamp() - began)), 0)::float8, coalesce(max(age(xmin)), 0)::float8,
		       pg_notification_queue_usage()
		  from holder where xmin is not null`).Scan(&age, &transactions, &queue)
	if err != nil {
		return // /readyz reports a database that does not answer
	}
	for desc, v := range map[*prometheus.Desc]float64{m.age: max(age, 0), m.transactions: max(transactions, 0), m.queue: queue} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v)
	}
}
