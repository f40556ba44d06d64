package customers

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// What is erased is not republished.
func TestRepublish(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, stays := a.json(t, "POST", "/customers", ada, 201)
	_, goes := a.json(t, "POST", "/customers", ada, 201)
	if resp, body := a.do(t, "DELETE", path(goes.ID), ""); resp.StatusCode != 204 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	var settings Settings
	vars := map[string]string{"DATABASE_URL": pgtest.URL(a.pool), "ERASED_FILE": filepath.Join(t.TempDir(), "erased")}
	if err := daemon.Parse(vars, &settings); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Republish(t.Context(), settings, &out, 1000, uuid.Nil); err != nil || !strings.HasSuffix(out.String(), "Entities appended to feed customers: 1\n") {
		t.Fatalf("%v, %s", err, &out)
	}
	entries := a.entries(t)
	last := entries[len(entries)-1]
	if _, body := a.do(t, "GET", path(stays.ID), ""); last.ID != stays.ID || last.Version != 2 || strings.TrimSpace(body) != string(last.Entity) {
		t.Errorf("the account is %s\nand on the feed %+v", body, last)
	}
}
