package customers

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

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
