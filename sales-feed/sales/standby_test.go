package sales

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// With a synchronous standby an order is acknowledged when that has it, also where the order is only found in the
// database. After a failover every acknowledged order is there.
func TestSynchronousStandby(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	pool, cancels := pgtest.CountCancels(t, primary.Open("sales", Migrations()...))
	s := openOn(t, parsed(t, nil), pool)
	const body = `{"customer_id":"018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11","lines":[{"model":"volta","options":[],"quantity":1}]}`
	_, first := s.buy(t, body)
	wantReady(t, s, http.StatusOK)
	standby.Stop()
	wantReady(t, s, http.StatusServiceUnavailable)

	type answer struct {
		*http.Response
		body string
	}
	buyingAt := func(s *shop, header ...string) <-chan answer {
		answered := make(chan answer, 1)
		go func() {
			resp, body := s.do(t, "POST", "/orders", body, append([]string{"Content-Type", "application/json"}, header...)...)
			answered <- answer{resp, body}
		}()
		return answered
	}
	buying := func(header ...string) <-chan answer { return buyingAt(s, header...) }
	keyed := buying("Idempotency-Key", "k")
	for deadline := time.Now().Add(time.Minute); !slices.ContainsFunc(primary.Waiting(), isAppend); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the order does not wait for the standby")
		}
	}
	unkeyed := buying() // behind it
	if a := <-keyed; a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.body, "same Idempotency-Key: that is safe") {
		t.Errorf("the order that hangs: %d %s", a.StatusCode, a.body)
	}
	if a := <-unkeyed; a.StatusCode != http.StatusServiceUnavailable || strings.Contains(a.body, "twice") {
		t.Errorf("the order behind it, of which nothing has happened: %d %s", a.StatusCode, a.body)
	}

	primary.Exec(`select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'`) // now it is there to be read
	repeated := buying("Idempotency-Key", "k")
	if a := <-repeated; a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the repeated order, which the standby does not have: %d %s", a.StatusCode, a.body)
	}
	wantReady(t, s, http.StatusServiceUnavailable)
	restarted := openOn(t, parsed(t, nil), primary.Open("sales")) // which serves nothing without the standby
	wantReady(t, restarted, http.StatusServiceUnavailable)
	if a := <-buyingAt(restarted, "Idempotency-Key", "k"); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the repeated order at a process that has just started: %d %s", a.StatusCode, a.body)
	}
	if n := cancels.Load(); n > 0 {
		t.Errorf("%d CancelRequests were sent", n)
	}
	standby.Start()
	wantReady(t, s, http.StatusOK)
	wantReady(t, restarted, http.StatusOK)
	a := <-buying("Idempotency-Key", "k")
	var again order.Order
	if err := json.Unmarshal([]byte(a.body), &again); err != nil || a.StatusCode != http.StatusCreated {
		t.Fatalf("the repeated order, with the standby: %d %s", a.StatusCode, a.body)
	}
	primary.Stop()
	standby.Promote()
	after := openOn(t, parsed(t, nil), standby.Open("sales"))
	for _, o := range []order.Order{first, again} {
		if resp, body := after.do(t, "GET", "/orders/"+o.ID.String(), ""); resp.StatusCode != http.StatusOK {
			t.Errorf("after the failover: %d %s", resp.StatusCode, body)
		}
	}
	if n := len(after.entries(t)); n != 2 {
		t.Errorf("after the failover the feed has %d entries, want 2", n)
	}
}

// An acknowledged order is never missing or old: where the connections lead to a hot standby that has yet to replay it,
// as in a failover, the answer is a 503, also right after the change.
func TestStandbyThatIsBehind(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	pool := primary.Open("sales", Migrations()...)
	primary.Exec("alter system set synchronous_standby_names = ''", "select pg_reload_conf()")
	var behind atomic.Bool
	config := pool.Config()
	to, err := pgx.ParseConfig(standby.URL("sales"))
	if err != nil {
		t.Fatal(err)
	}
	dial, socket := config.ConnConfig.DialFunc, to.Host+"/.s.PGSQL.5432"
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if behind.Load() {
			addr = socket
		}
		return dial(ctx, network, addr)
	}
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	s := openOn(t, parsed(t, nil), own)
	const body = `{"customer_id":"018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11","lines":[{"model":"volta","options":[],"quantity":1}]}`
	_, old := s.buy(t, body)
	old.Status = order.Cancelled
	standby.Exec(`select pg_wal_replay_pause()`)
	if resp, text := s.do(t, "POST", "/orders/"+old.ID.String()+"/cancel", ""); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, text)
	}
	_, latest := s.buy(t, body)
	behind.Store(true)
	primary.Exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = 'sales'`)
	// On a slow machine all answers may be other refusals.
	for refused, deadline := 0, time.Now().Add(30*time.Second); refused < 2 && time.Now().Before(deadline); {
		for path, want := range map[string]string{"/orders/" + old.ID.String(): `"cancelled"`, "/orders/" + latest.ID.String(): `"placed"`, "/orders": latest.ID.String()} {
			resp, text := s.do(t, "GET", path, "")
			switch {
			case resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(text, "standby"):
				refused++
			case resp.StatusCode != http.StatusServiceUnavailable && !strings.Contains(text, want):
				t.Fatalf("%s: %d %s", path, resp.StatusCode, text)
			}
		}
	}
}

// wantReady waits until /readyz has the status.
func wantReady(t *testing.T, s *shop, status int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		resp, body := s.do(t, "GET", "/readyz", "")
		if resp.StatusCode == status {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz: %d %s, want %d", resp.StatusCode, body, status)
		}
	}
}

func isAppend(statement string) bool { return strings.Contains(statement, "feed_append") }
