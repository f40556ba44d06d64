package publish

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// All connections of a log are like those of its pool, which may know only as it connects where the database is, and
// the schema.
func TestConnectionsLikeThePool(t *testing.T) {
	t.Parallel()
	pool := people(t)
	fill(t, openLog(t, pool), 3) // another log, in the schema public
	config := pool.Config()
	name := config.ConnConfig.Database
	config.ConnConfig.Database = "unknown until it connects"
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		c.Database = name
		return nil
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `set search_path = mine, public`)
		return err
	}
	exec(t, pool, `create schema mine`)
	late, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(late.Close)
	if err := Migrate(t.Context(), late, Options{}); err != nil {
		t.Fatal(err)
	}
	exec(t, late, `select feed_create('`+feedName+`')`)
	var says strings.Builder
	l, err := openPersonal(t, late, filepath.Join(t.TempDir(), "erased"), &says)
	if err != nil {
		t.Fatal(err)
	}
	ada := uuid.New()
	signUp(t, l, ada, "ada")
	if err := l.Commit(t.Context(), erasing(ada)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "it to look at its own log", l.peers.alone.Load)
	l.Close()
	if head := l.Remembered(feedName); head == nil || head.Position != 2 || says.String() != "" {
		t.Errorf("it remembers %v, and says %s", head, says.String())
	}
}
