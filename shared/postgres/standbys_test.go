package postgres_test

import (
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// Each host of the URL of standbys has a pool, whose sessions are used for as long as they work. Open does without those
// that are down.
func TestStandbys(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.Replicated(t)
	pool, read := primary.OpenWithStandbys("things", standby, primary)
	if len(read) != 2 {
		t.Fatalf("there are %d pools", len(read))
	}
	if _, err := pool.Exec(t.Context(), `create table thing ()`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standby has the table", func() bool {
		_, err := read[0].Exec(t.Context(), `select from thing`)
		return err == nil
	})
	for i, want := range []bool{true, false} {
		var recovering bool
		if err := read[i].QueryRow(t.Context(), `select pg_is_in_recovery()`).Scan(&recovering); err != nil || recovering != want {
			t.Errorf("pool %d: in recovery %t, %v", i, recovering, err)
		}
	}
	away := standby.URL("things")
	standby.Stop()
	if _, err := read[0].Exec(t.Context(), `select`); err == nil {
		t.Error("a standby that is stopped answers")
	}
	primary.Exec("alter system set synchronous_standby_names = ''", "select pg_reload_conf()")
	db, err := postgres.Open(t.Context(), postgres.Config{URL: primary.URL("things"), ReadURL: away, Name: "things"})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	_, err = postgres.Open(t.Context(), postgres.Config{URL: primary.URL("things"), ReadURL: "postgres://me:s3cret@db@x/things", Name: "things"})
	if err == nil || !strings.Contains(err.Error(), "standbys") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a URL that is wrong: %v", err)
	}
}
