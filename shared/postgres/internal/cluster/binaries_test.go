package cluster

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNoBinariesOnTheMachine(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := choose(search(t.Context(), []string{t.TempDir() + "/*/bin"}), 0)
	if !errors.Is(err, ErrNoBinaries) {
		t.Errorf("error: %v", err)
	}
	for _, word := range []string{"apt install", "dnf install", "brew install", "PGBIN"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not speak of %s", word)
		}
	}
}

// A PostgreSQL without initdb is found, and is said to be of no use. A service can do with a running server.
func TestInitdbIsMissing(t *testing.T) {
	dir, usual := t.TempDir(), usualFolders
	usualFolders = nil
	defer func() { usualFolders = usual }()
	if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 15.1'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	err := Find(t.Context(), "")
	if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), filepath.Join(dir, "postgres")+" cannot be used: ") || !strings.Contains(err.Error(), "initdb: no such file") {
		t.Errorf("error: %v", err)
	}
	home, err := os.MkdirTemp("", "edison-")
	if err == nil {
		defer os.RemoveAll(home)
		err = os.Chmod(home, 0o755) // for the user of private servers
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Options{Dir: filepath.Join(home, "sales"), Volatile: true, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrNoBinaries) || !strings.HasSuffix(err.Error(), "; or set DATABASE_URL to a running server") {
		t.Errorf("error of a service: %v", err)
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

// A folder is tried without programs that PATH may lack, and nothing is left in it.
func TestFolderIsTriedWithoutPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", t.TempDir())
	if err := try(dir, nil); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
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
