package buyer

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrEnded refuses a credential that was given out before the e-mail address of its account was confirmed: somebody
// else may have signed up with the address.
var ErrEnded = unauthorized("This browser or token is signed out: the e-mail address of its account was confirmed since. Nothing was changed or bought. " +
	"Sign in by a link in a mail. A POST to the link is answered with a new token.")

// Since returns when the e-mail address of an account was confirmed, as far as the app knows, in Unix microseconds; or
// 0, if it never was.
func Since(ctx context.Context, pool *pgxpool.Pool, customer uuid.UUID) (since int64, err error) {
	err = pool.QueryRow(ctx, `select coalesce(max(since), 0) from buyer_since where customer_id = $1`, customer).Scan(&since)
	if err != nil {
		err = fmt.Errorf("look up when an address was confirmed: %w", err)
	}
	return since, err
}

// ended reports whether a customer's credential has ended. Sales, which asks customers nothing, learns of a confirmation
// from the first credential that was given out after it. Before that one comes, its owner can have added nothing at sales.
// Customers learns in the same way of one that its database lacks, because a dump of before was restored.
func (s *Side) ended(ctx context.Context, b Buyer) (bool, error) {
	if b.Customer == uuid.Nil {
		return false, nil
	}
	since, err := Since(ctx, s.pool, b.Customer)
	if err != nil || b.Since <= since {
		return b.Since < since, err
	}
	keep := `insert into buyer_since (customer_id, since) values ($1, $2)`
	if s.app == Customers { // of accounts that are there
		keep = `insert into buyer_since (customer_id, since) select id, $2 from customer where id = $1 for key share`
	}
	_, err = s.pool.Exec(ctx, keep+` on conflict (customer_id) do update set since = greatest(buyer_since.since, excluded.since)`, b.Customer, b.Since)
	if err != nil {
		err = fmt.Errorf("keep when an address was confirmed: %w", err)
	}
	return false, err
}
