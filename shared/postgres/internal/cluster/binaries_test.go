package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestNoBinariesOnTheMachine(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := choose(search(t.Context(), []string{t.TempDir() + "/*/bin"}), 0)
	if !errors.Is(err, ErrNoBinaries) {
		t.Errorf("error: %v", err)
	}
	for _, word := range []string{"apt install", "dnf install", "brew install", "PGBIN", "DATABASE_URL"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not speak of %s", word)
		}
	}
}

func TestBinariesOfThisMachine(t *testing.T) {
	folder, err := findBinaries(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if named, err := findBinaries(t.Context(), folder, 0); err != nil || named != folder {
		t.Errorf("PGBIN=%s: %s, error %v", folder, named, err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, pgbin := range []string{"", folder} {
		if _, err := findBinaries(stopped, pgbin, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("PGBIN=%s, stopped while it looks: %v", pgbin, err)
		}
	}
}

func TestChoose(t *testing.T) {
	found := []binaries{{"/13", 13}, {"/17", 17}, {"/15", 15}}
	for _, test := range []struct {
		name        string
		found       []binaries
		major       int
		want, error string
	}{
		{"the first that is new enough", found, 0, "/17", ""},
		{"the version that made the data", found, 15, "/15", ""},
		{"no version that made the data", found, 16, "", "16, which made the data"},
		{"too old", found[:1], 0, "", "PostgreSQL 13 in /13 cannot be used: version 14 or newer is required"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := choose(test.found, test.major)
			if got != test.want || (err == nil) != (test.error == "") || err != nil && !strings.Contains(err.Error(), test.error) {
				t.Errorf("got %q, error %v", got, err)
			}
		})
	}
}
