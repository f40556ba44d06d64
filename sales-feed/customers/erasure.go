package customers

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// Erasures returns where the ids of deleted accounts are kept, and how an account that a restored dump brings back is
// deleted again.
func Erasures(settings Settings) publish.Erasures {
	file := cmp.Or(settings.ErasedFile, filepath.Join(cmp.Or(settings.DataDir, postgres.DefaultDir), "customers.erased"))
	return publish.Erasures{File: file, Delete: func(ctx context.Context, tx pgx.Tx, _ string, ids []uuid.UUID) error {
		_, err := tx.Exec(ctx, deleteAccounts, ids)
		return err
	}}
}

// deleteAccounts deletes all that customers keeps of accounts outside the feed. It does not need the foreign keys, which
// the restore of a table alone takes away.
const deleteAccounts = `
	with answers as (delete from idempotency_key where customer_id = any($1)),
	     links as (delete from sign_in_link where customer_id = any($1)),
	     credentials as (delete from buyer_since where customer_id = any($1))
	delete from customer where id = any($1)`

// errNotErased returns err, with a problem if it is that the list of erased ids could not be written.
func errNotErased(err error) error {
	if !errors.Is(err, publish.ErrNotListed) {
		return err
	}
	return errors.Join(err, web.TryAgain(http.StatusServiceUnavailable, 60,
		"The account cannot be erased at the moment because the list of erased accounts cannot be written. Nothing was deleted; try again later."))
}
