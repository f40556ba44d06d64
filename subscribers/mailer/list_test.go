package mailer

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
	listtest.List[row]{
		Insert: `
			insert into mail (order_id, customer_id, placed_at, state)
			select gen_random_uuid(), gen_random_uuid(), (select coalesce(max(placed_at), '2026-11-23') + interval '1 s' from mail) + (i / 4) * interval '1 s', 'sent'
			  from generate_series(1, $1) as i`,
		Read: func(r *http.Request, db *pgxpool.Pool) (web.List[row], error) { return readRows(r, db, maxShown) },
		IDs:  func(m row) []uuid.UUID { return []uuid.UUID{m.OrderID, m.CustomerID} },

		Filter: "state", All: "sent", None: "failed",
	}.Check(t, pgtest.New(t, sql.Migrations("subscribe"), sql.Migrations("mailer")))
}
