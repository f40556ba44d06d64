package shipping

import (
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/dev/listtest"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/sql"
)

func TestPages(t *testing.T) {
	t.Parallel()
	listtest.List[parcel]{
		Insert: `
			insert into shipment (id, version, status, order_id, customer_id, car, model, updated_at)
			select gen_random_uuid(), 1, 'stopped', gen_random_uuid(), gen_random_uuid(), 1, 'volta',
			       (select coalesce(max(updated_at), '2026-11-23') + interval '1 s' from shipment) + (i / 4) * interval '1 s' from generate_series(1, $1) as i`,
		Read: func(r *http.Request, db *pgxpool.Pool) (web.List[parcel], error) { return list(r, db, pageLimit) },
		IDs:  func(p parcel) []uuid.UUID { return []uuid.UUID{p.ID, p.CustomerID} },

		Filter: "status", All: "stopped", None: "ready",
	}.Check(t, pgtest.New(t, sql.Migrations("publish"), sql.Migrations("subscribe"), sql.Migrations("shipping")))
}
