package buyer

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrEnded refuses a credential that was issued before the e-mail address of its account was confirmed, since a stranger
// may have signed up with the address, or a guest's that was issued before the guest signed up.
var ErrEnded = unauthorized("This browser or token is signed out because its guest has signed up, or the e-mail address of its account has been confirmed, since then. " +
	"Nothing was changed or bought. Sign in with a link by e-mail. A POST to the link returns a new token.")

// Since returns when the account's address was confirmed, as far as this app knows, in Unix microseconds, or 0.
func Since(ctx context.Context, pool *pgxpool.Pool, customer uuid.UUID) (since int64, err error) {
	err = pool.QueryRow(ctx, `select coalesce(max(since), 0) from buyer_since where customer_id = $1`, customer).Scan(&since)
	if err != nil {
		err = fmt.Errorf("look up when an address was confirmed: %w", err)
	}
	return since, err
}

// SignedUp stores at sales that a visitor has become the customer with the same id: other credentials of the visitor,
// which do not end when the account's address is confirmed, end now.
func (s *Side) SignedUp(ctx context.Context, visitor uuid.UUID) error {
	_, err := s.pool.Exec(ctx, `insert into buyer_since (customer_id, since) values ($1, 0) on conflict do nothing`, visitor)
	if err != nil {
		err = fmt.Errorf("store that a visitor has signed up: %w", err)
	}
	return err
}

// hasSignedUp reports whether a visitor is known to be a customer.
func (s *Side) hasSignedUp(ctx context.Context, visitor uuid.UUID) (known bool, err error) {
	if visitor == uuid.Nil {
		return false, nil
	}
	err = s.pool.QueryRow(ctx, `select exists (select from buyer_since where customer_id = $1)`, visitor).Scan(&known)
	if err != nil {
		err = fmt.Errorf("look up whether a visitor has signed up: %w", err)
	}
	return known, err
}

// ended reports whether a customer's credential has ended. Sales does not ask customers: it learns of a confirmation
// from the first credential that was issued after it. Before that, the account's owner cannot have stored anything at
// sales. Customers learns in the same way of a confirmation that its database lacks after a restore from an older dump.
func (s *Side) ended(ctx context.Context, b Buyer) (bool, error) {
	if b.Customer == uuid.Nil {
		return false, nil
	}
	since, err := Since(ctx, s.pool, b.Customer)
	if err != nil || b.Since <= since {
		return b.Since < since, err
	}
	keep := `insert into buyer_since (customer_id, since) values ($1, $2)`
	if s.app == Customers { // only of accounts that exist
		keep = `insert into buyer_since (customer_id, since) select id, $2 from customer where id = $1 for key share`
	}
	_, err = s.pool.Exec(ctx, keep+` on conflict (customer_id) do update set since = greatest(buyer_since.since, excluded.since)`, b.Customer, b.Since)
	if err != nil {
		err = fmt.Errorf("store when an address was confirmed: %w", err)
	}
	return false, err
}
