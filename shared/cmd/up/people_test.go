package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// Shoppers keep their accounts over a restart, in a file that is for nobody else.
func TestShoppersKeepTheirAccounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := func(talk *strings.Builder) *shoppers {
		s := newShoppers("", "", dir, 60, newConsole(talk, nil))
		s.remember()
		return s
	}
	said := new(strings.Builder)
	first := start(said)
	stays, leaves := credential{uuid.New(), "datafeed_buyer_a"}, credential{uuid.New(), "datafeed_buyer_b"}
	first.note(first.people[3], stays)
	first.note(first.people[5], leaves)
	first.note(first.people[5], credential{})
	if info, err := os.Stat(filepath.Join(dir, shoppersFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	again := start(said)
	if again.people[3].member != stays || again.people[5].member != (credential{}) || said.Len() > 0 {
		t.Errorf("%+v, %+v, %s", again.people[3].member, again.people[5].member, said)
	}
	if err := os.WriteFile(filepath.Join(dir, shoppersFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if broken := start(said); broken.people[3].member != (credential{}) || !strings.Contains(said.String(), "signs up again") {
		t.Errorf("%+v, %s", broken.people[3].member, said)
	}
}
