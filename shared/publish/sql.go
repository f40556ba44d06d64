package publish

import (
	"context"
	"encoding/json"
	"fmt"
)

// An Exec sends a statement in an open transaction: the method Exec of a pgx.Tx, or ExecContext of an sql.Tx.
type Exec[R any] func(ctx context.Context, sql string, args ...any) (R, error)

// Put publishes the state of an entity with the transaction of exec, by the SQL function feed_put: entity becomes a
// JSON object. The transaction's search_path must lead to the log's schema. The entry is appended, with version and
// time, when the transaction commits, unless the feed has the same state already. Use [Log.InTx] or [Log.Commit] where
// many write to one feed.
func Put[R any](ctx context.Context, exec Exec[R], feed, key string, entity any) error {
	payload, err := json.Marshal(entity)
	if err != nil {
		return fmt.Errorf("publish %s of feed %s: %w", key, feed, err)
	}
	_, err = exec(ctx, `select feed_put($1, $2::text, $3)`, feed, key, string(payload))
	return err
}

// Delete publishes that the entity is gone, as [Put] does that it is there.
func Delete[R any](ctx context.Context, exec Exec[R], feed, key string) error {
	_, err := exec(ctx, `select feed_delete($1, $2::text)`, feed, key)
	return err
}
