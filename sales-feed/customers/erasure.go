package customers

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// Erasures say where the ids of deleted accounts are kept, and how such an account is deleted again that a restored dump brings back.
func Erasures(settings Settings) publish.Erasures {
	file := settings.ErasedFile
	if file == "" {
		file = filepath.Join(settings.DataDir, "customers.erased")
	}
	return publish.Erasures{File: file, Delete: func(ctx context.Context, tx pgx.Tx, _ string, ids []uuid.UUID) error {
		_, err := tx.Exec(ctx, `delete from customer where id = any($1)`, ids) // answers to repeated sign-ups go with it
		return err
	}}
}

// errNotErased is for somebody who wants to be erased while that could not be kept.
func errNotErased(err error) error {
	if !errors.Is(err, publish.ErrNotListed) {
		return err
	}
	p := web.Errorf(http.StatusServiceUnavailable, "The account cannot be erased at the moment: the list of erased accounts cannot be written. Nothing was deleted; try again later.")
	p.Header = http.Header{"Retry-After": {"60"}}
	return p
}
