package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// ReadTimeout is how long a read of the database may take.
const ReadTimeout = 10 * time.Second

const maxKey = 255

// Once does what a request asks for, once for each Idempotency-Key ("" is none): a request that repeats a key gets the
// first answer again, for KeyAge at least, another request under the same key a problem. do has to insert key, hash and its answer as JSON
// into the table idempotency_key in the transaction that does it. The first answer is repeated only when it is as
// durable as it was to be.
func Once[T any](ctx context.Context, pool *pgxpool.Pool, log *publish.Log, key string, request any, do func(hash []byte) (*T, error)) (*T, error) {
	if len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, web.Errorf(http.StatusBadRequest, "The Idempotency-Key takes up to %d printable ASCII characters.", maxKey)
	}
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
		// The same request, twice at once: the other one was first, or failed after all.
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.ConstraintName != "idempotency_key_pkey" {
			return answer, err
		}
	}
}

// answered returns the first answer to a key, or nil if the key is new.
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
