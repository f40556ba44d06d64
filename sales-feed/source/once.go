package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// ReadTimeout bounds one read of the database.
const ReadTimeout = 10 * time.Second

// Once executes a request at most once per Idempotency-Key ("" means no key). A repeated request gets the first answer
// again, until the key is removed. A different request with the same key gets a problem. In the transaction that executes
// the request, do must insert the key, the hash and its answer as JSON into the table idempotency_key. The first answer
// is repeated only when it is durable.
func Once[T any](ctx context.Context, pool *pgxpool.Pool, log *publish.Log, key string, request any, do func(hash []byte) (*T, error)) (*T, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(text)
	if key == "" {
		return do(hash[:])
	}
	for {
		first, err := answered[T](ctx, pool, key, hash[:])
		if first != nil {
			err = log.Confirm(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("answer a repeated request: %w", err)
		}
		if first != nil {
			return first, nil
		}
		answer, err := do(hash[:])
		// The same request came twice at the same time: the other one was first, or has failed.
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.ConstraintName != "idempotency_key_pkey" {
			return answer, err
		}
	}
}

func answered[T any](ctx context.Context, pool *pgxpool.Pool, key string, hash []byte) (*T, error) {
	var firstHash, answer []byte
	ctx, cancel := context.WithTimeout(ctx, ReadTimeout)
	defer cancel()
	err := pool.QueryRow(ctx, `select request_hash, answer from idempotency_key where key = $1`, key).Scan(&firstHash, &answer)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up an idempotency key: %w", err)
	case !bytes.Equal(firstHash, hash):
		return nil, web.Errorf(http.StatusUnprocessableEntity, "This Idempotency-Key was used for another request. Nothing was done.")
	}
	first := new(T)
	return first, json.Unmarshal(answer, first)
}
