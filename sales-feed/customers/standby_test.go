package customers

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A sign-up is acknowledged when a synchronous standby has it, also where it is only found in the database.
func TestRepeatedSignUpWithoutStandby(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	pool, cancels := pgtest.CountCancels(t, primary.Open("customers", Migrations()...))
	a := start(t, pool)
	signUp := func(a *app, want int) (id string) {
		t.Helper()
		resp, body := a.do(t, "POST", "/customers", ada, "Content-Type", "application/json", "Idempotency-Key", "k")
		if resp.StatusCode != want {
			t.Errorf("%d %s, want %d", resp.StatusCode, body, want)
		}
		return resp.Header.Get("Location")
	}
	standby.Stop()
	signUp(a, http.StatusServiceUnavailable)
	primary.Exec(`select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'`) // now it is there to be read
	signUp(a, http.StatusServiceUnavailable)
	restarted := start(t, primary.Open("customers"))
	signUp(restarted, http.StatusServiceUnavailable)
	if n := cancels.Load(); n > 0 {
		t.Errorf("%d CancelRequests were sent", n)
	}
	standby.Start()
	var first string
	for deadline := time.Now().Add(time.Minute); first == "" && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if resp, _ := a.do(t, "GET", "/readyz", ""); resp.StatusCode == http.StatusOK {
			first = signUp(a, http.StatusCreated)
		}
	}
	if again := signUp(restarted, http.StatusCreated); first == "" || again != first {
		t.Errorf("it signed up as %q and as %q", first, again)
	}
}

// A sign-up is acknowledged when a synchronous standby has it.
func TestSynchronousStandby(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	a := start(t, primary.Open("customers", Migrations()...))
	standby.Stop()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		resp, body := a.do(t, "POST", "/customers", ada, "Content-Type", "application/json")
		if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "may sign up twice") {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}()
	isAppend := func(statement string) bool { return strings.Contains(statement, "feed_append") }
	for deadline := time.Now().Add(time.Minute); !slices.ContainsFunc(primary.Waiting(), isAppend); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the sign-up does not wait for the standby")
		}
	}
	primary.Stop()
	standby.Start()
	standby.Promote()
	<-answered
	var n int
	if err := standby.Open("customers").QueryRow(t.Context(), `select count(*) from customer`).Scan(&n); err != nil || n != 0 {
		t.Errorf("after the failover: %d customers, %v", n, err)
	}
}
