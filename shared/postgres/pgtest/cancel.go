package pgtest

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

const cancelRequest = 80877102 // PostgreSQL's protocol, section 55.7

type spy struct {
	net.Conn
	cancels *atomic.Int32
}

func (s spy) Write(p []byte) (int, error) {
	if len(p) >= 12 && binary.BigEndian.Uint32(p[4:]) == cancelRequest {
		s.cancels.Add(1)
	}
	return s.Conn.Write(p)
}

// CountCancels returns a pool of the same database, and counts the CancelRequests that are sent by its connections and
// by those of pools with its configuration.
func CountCancels(t testing.TB, pool *pgxpool.Pool) (*pgxpool.Pool, *atomic.Int32) {
	t.Helper()
	config, cancels := pool.Config(), new(atomic.Int32)
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return spy{conn, cancels}, err
	}
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	return own, cancels
}
