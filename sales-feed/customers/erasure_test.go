package customers

import (
	"encoding/hex"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// startErasing starts the app with a list of erased ids.
func startErasing(t *testing.T, pool *pgxpool.Pool, file string) *app {
	t.Helper()
	var settings Settings
	if err := daemon.Parse(map[string]string{"ERASED_FILE": file, "STOREFRONT_URL": "https://shop.example"}, &settings); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	log, err := publish.OpenPersonal(t.Context(), pool, logger, Erasures(settings))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	server := httptest.NewUnstartedServer(nil)
	settings.PublicURL = "http://" + server.Listener.Addr().String()
	if server.Config.Handler, err = Engine(settings, pool, log, logger); err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Close)
	return &app{server, pool, func() {}}
}

// Somebody who was erased stays so in all that the app answers, however the database goes back.
func TestRestoreOverAnErasure(t *testing.T) {
	t.Parallel()
	pool, file := pgtest.New(t, Migrations()...), filepath.Join(t.TempDir(), "customers.erased")
	a, replica := startErasing(t, pool, file), startErasing(t, pool, file)
	_, p := a.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada")
	bob := strings.NewReplacer("Ada Lovelace", "Bob", "ada@", "bob@", "St James Square 12", "Road 1", "London", "Leeds").Replace(ada)
	_, stays := a.json(t, "POST", "/customers", bob, 201, "Idempotency-Key", "bob")
	dump := pgtest.DumpFile(t, pool)
	if resp, body := a.do(t, "DELETE", path(p.ID), ""); resp.StatusCode != 204 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	paths := []string{path(p.ID), "/feeds/customers", "/feeds/customers?after=0", "/feeds/customers.atom", "/feeds/customers/" + p.ID.String()}
	for _, first := range paths { // after each restore another one is asked first
		pgtest.RestoreFile(t, pool, dump, "--single-transaction")
		pool.Reset() // of what the connections know of the tables that were
		for _, path := range append([]string{first}, paths...) {
			for _, of := range []*app{replica, a} {
				for _, accept := range []string{"*/*", "text/html"} {
					if resp, body := of.do(t, "GET", path, "", "Accept", accept); strings.Contains(body, "Lovelace") || resp.StatusCode >= 500 {
						t.Errorf("%s: %d %s", path, resp.StatusCode, body)
					}
				}
			}
		}
		dumped := a.dump(t)
		for _, word := range []string{"Lovelace", "ada@example.com", "St James"} {
			if strings.Contains(dumped, word) || strings.Contains(dumped, hex.EncodeToString([]byte(word))) {
				t.Errorf("the database has %q", word)
			}
		}
	}
	if resp, _ := a.do(t, "GET", path(p.ID), ""); resp.StatusCode != 410 {
		t.Errorf("the account answers %d", resp.StatusCode)
	}
	if resp, body := a.do(t, "GET", path(stays.ID), ""); resp.StatusCode != 200 || !strings.Contains(body, "Bob") {
		t.Errorf("another account: %d %s", resp.StatusCode, body)
	}
	// A sign-up that is repeated does not get the answer that the dump has.
	again := startErasing(t, pool, file) // it has written nothing, and knows no table of before
	pgtest.RestoreFile(t, pool, dump, "--single-transaction")
	pool.Reset()
	if _, anew := again.json(t, "POST", "/customers", ada, 201, "Idempotency-Key", "ada"); anew.ID == p.ID {
		t.Error("the repeated sign-up is answered with the account that was erased")
	}
}

// Who cannot be kept erased is not erased.
func TestDeleteWithoutList(t *testing.T) {
	t.Parallel()
	pool, file := pgtest.New(t, Migrations()...), filepath.Join(t.TempDir(), "customers.erased")
	a := startErasing(t, pool, file)
	_, p := a.json(t, "POST", "/customers", ada, 201)
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	for _, accept := range []string{"application/json", "text/html"} {
		resp, body := a.do(t, "DELETE", path(p.ID), "", "Accept", accept)
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "Nothing was deleted") || strings.Contains(body, file) {
			t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
		}
	}
	a.json(t, "GET", path(p.ID), "", 200)
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	if resp, _ := a.do(t, "DELETE", path(p.ID), ""); resp.StatusCode != 204 {
		t.Errorf("%d", resp.StatusCode)
	}
}
