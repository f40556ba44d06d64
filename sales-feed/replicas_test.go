package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// built is the folder of the program, which is built once for all tests.
var built struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := pgtest.Run(m)
	_ = os.RemoveAll(built.dir)
	os.Exit(code)
}

// build returns the program.
func build(t *testing.T) (binary string) {
	t.Helper()
	pgtest.Slow(t, "a build")
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "edison-built-"); built.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", built.dir+"/", ".").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "sales-feed")
}

// startSales is start with the program without arguments.
func startSales(t *testing.T, binary, databaseURL string) (*os.Process, string) {
	t.Helper()
	return start(t, exec.Command(binary), databaseURL)
}

// start runs the command on a free port, and returns its process and its URL.
func start(t *testing.T, cmd *exec.Cmd, databaseURL string) (*os.Process, string) {
	t.Helper()
	cmd.Env = append([]string{
		"ADDR=127.0.0.1:0", "ACCESS=open", "PUBLIC_URL=http://sales.example", "DATABASE_URL=" + databaseURL, "BUYER_KEY=" + buyerKey,
	}, cmd.Env...)
	p := exectest.Start(t, cmd)
	return p.Process, p.URL
}

// Two sales processes on one database take orders and serve the feed at once, and one of them is killed in the middle.
// A reader of now the one and now the other misses nothing and sees nothing twice, and each order that was
// answered is there once.
func TestTwoSales(t *testing.T) {
	t.Parallel()
	binary := build(t)
	pool := pgtest.New(t)
	_, stays := startSales(t, binary, pgtest.URL(pool))
	victim, goes := startSales(t, binary, pgtest.URL(pool))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	const buyers, each = 8, 60
	var sold atomic.Int64
	var bought sync.Map // order ids, as answered: by its survivor where the victim did not answer
	var buying sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: buyers}}
	t.Cleanup(client.CloseIdleConnections)
	for b := range buyers {
		buying.Go(func() {
			for i := range each {
				shops := []string{stays, goes}
				if (b+i)%2 == 1 {
					shops = []string{goes, stays}
				}
				id, err := buy(ctx, client, shops[0], fmt.Sprint(b, "-", i))
				if err != nil && shops[0] == goes { // it is gone: the same purchase again where somebody answers
					id, err = buy(ctx, client, stays, fmt.Sprint(b, "-", i))
				}
				if err != nil {
					t.Error(err)
					return
				}
				if _, twice := bought.LoadOrStore(id, 0); twice {
					t.Errorf("two purchases are the order %s", id)
				}
				if sold.Add(1) == buyers*each/2 {
					_ = victim.Kill()
				}
			}
		})
	}

	seen, times := feed.Cursor{}, map[uuid.UUID]int{}
	reader := feedclient.New("")
	t.Cleanup(reader.Close)
	fromVictim := 0
	for i, over := 0, false; !over && !t.Failed(); i++ {
		done := sold.Load() == buyers*each // before it reads on
		url := []string{goes, stays}[i%2]
		answer, err := reader.Get(ctx, feedclient.Request{URL: url + "/feeds/orders", After: seen, Limit: 10})
		if err != nil {
			if url == stays || sold.Load() < buyers*each/2 {
				t.Fatal(err)
			}
			continue
		}
		for _, e := range answer.Page.Entries { // dense: the client has checked it
			times[e.ID]++
			if url == goes {
				fromVictim++
			}
		}
		seen = answer.Page.Cursor
		over = done && url == stays && answer.Page.UpToDate
	}
	buying.Wait()
	orders := 0
	bought.Range(func(id, _ any) bool {
		if orders++; times[id.(uuid.UUID)] != 1 {
			t.Errorf("order %s was answered, and is on the feed %d times", id, times[id.(uuid.UUID)])
		}
		return true
	})
	if len(times) != orders || orders != buyers*each || seen.Position != buyers*each {
		t.Errorf("%d orders on the feed up to %s, %d answered, want %d", len(times), seen, orders, buyers*each)
	}
	if fromVictim == 0 {
		t.Error("nothing was read from the one that was killed")
	}
}

// A database whose restore ended before its keys is refused: a repeated purchase would be done twice.
func TestStartWithoutKeys(t *testing.T) {
	t.Parallel()
	binary := build(t)
	for _, table := range []string{"idempotency_key", "feed_entry"} {
		for app, args := range map[string][]string{"sales": nil, "customers": {"customers"}} {
			t.Run(app+" without that of "+table, func(t *testing.T) {
				t.Parallel()
				pool, file := pgtest.New(t), "ERASED_FILE="+filepath.Join(t.TempDir(), "erased")
				cmd := exec.Command(binary, args...)
				cmd.Env = []string{file}
				process, _ := start(t, cmd, pgtest.URL(pool))
				if err := process.Kill(); err != nil {
					t.Fatal(err)
				}
				if _, err := pool.Exec(t.Context(), `alter table `+table+` drop constraint `+table+`_pkey cascade`); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				again := exec.CommandContext(ctx, binary, args...)
				again.Env = []string{"ADDR=127.0.0.1:0", "ACCESS=open", "DATABASE_URL=" + pgtest.URL(pool), "BUYER_KEY=" + buyerKey, file}
				if out, err := again.CombinedOutput(); err == nil || !strings.Contains(string(out), "tables without a primary key: "+table+";") {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

// buy buys a car, and gives the order's id.
func buy(ctx context.Context, client *http.Client, shop, key string) (id uuid.UUID, err error) {
	const purchase = `{"lines": [{"model": "ohm", "quantity": 1}]}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, shop+"/orders", strings.NewReader(purchase))
	if err != nil {
		return id, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	resp, err := client.Do(req)
	if err != nil {
		return id, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return id, err
	}
	if resp.StatusCode != http.StatusCreated {
		return id, fmt.Errorf("%s: %s", resp.Status, body)
	}
	var order struct{ ID uuid.UUID }
	err = json.Unmarshal(body, &order)
	return order.ID, err
}
