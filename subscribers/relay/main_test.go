package relay

import (
	"context"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// shared is the broker of all tests that do it no harm: each has a feed, and so an exchange, of its own.
var shared struct {
	sync.Once
	*rabbitmq.Server
	err error
}

func TestMain(m *testing.M) {
	time.Local = time.FixedZone("elsewhere", 5*3600+1800) // so that a forgotten UTC shows
	exectest.Main(func(ctx context.Context, env map[string]string, stdout io.Writer) error {
		env["ACCESS"] = "open"
		return Service().Run(ctx, env, stdout)
	})
	dir, err := os.MkdirTemp("", "edison-relay-")
	if err != nil {
		panic(err)
	}
	sharedDir = dir
	code := run(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

var sharedDir string

// run ends the broker before pgtest.Main ends the process.
func run(m *testing.M) int {
	defer func() {
		if shared.Server != nil {
			shared.Kill()
		}
	}()
	return pgtest.Run(m)
}

func sharedBroker(t *testing.T) *rabbitmq.Server {
	t.Helper()
	pgtest.Slow(t, "RabbitMQ")
	if _, err := rabbitmq.Find(); err != nil {
		t.Skip(err)
	}
	shared.Do(func() {
		shared.Server, shared.err = rabbitmq.Start(context.Background(), rabbitmq.Config{Dir: sharedDir})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.Server
}

// eventually waits up to two minutes for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}
