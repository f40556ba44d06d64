package main

import (
	"context"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Of two sales processes on one database one removes what is old, while a key within its age still gets the first
// answer.
func TestOldKeysAreRemoved(t *testing.T) {
	t.Parallel()
	binary, pool := build(t), pgtest.New(t)
	first, url := startSales(t, binary, pgtest.URL(pool))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	ids := map[string]string{}
	for _, key := range []string{"old", "kept", "new"} {
		id, err := buy(ctx, client, url, key)
		if err != nil {
			t.Fatal(err)
		}
		ids[key] = id.String()
	}
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	for key, age := range map[string]string{"old": "7 days 1 second", "kept": "6 days 23 hours"} {
		if _, err := pool.Exec(ctx, `update idempotency_key set created_at = now() - $2::text::interval where key = encode(sha256($1::text::bytea), 'hex')`, key, age); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		_, url = start(t, exec.Command(binary), pgtest.URL(pool))
	}
	for left := true; left; {
		if err := pool.QueryRow(ctx, `select exists (select from idempotency_key where key = encode(sha256('old'), 'hex'))`).Scan(&left); err != nil {
			t.Fatal("the old key is not removed: ", err)
		}
	}
	for _, key := range []string{"old", "kept", "new"} {
		if id, err := buy(ctx, client, url, key); err != nil || (id.String() == ids[key]) != (key != "old") {
			t.Errorf("the key %q: order %s, %v, first was %s", key, id, err, ids[key])
		}
	}
}
