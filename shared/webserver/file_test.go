package webserver

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// unusable are what a file may become by a mistake, with what an error says of it.
var unusable = map[string]struct {
	become func(path string) error
	says   string
}{
	"a pipe":            {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "is not a regular file"},
	"a folder":          {func(path string) error { return os.Mkdir(path, 0o700) }, "is not a regular file"},
	"an endless device": {func(path string) error { return os.Symlink("/dev/zero", path) }, "is not a regular file"},
	"a link to itself":  {func(path string) error { return os.Symlink(path, path) }, "too many levels"},
	"missing":           {func(string) error { return nil }, "no such file"},
	"larger than 1 MiB": {func(path string) error { return os.WriteFile(path, make([]byte, maxFile+1), 0o600) }, "more than"},
	"a sparse file":     {func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40)) }, "more than"},
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	want := bytes.Repeat([]byte("x"), maxFile)
	write(t, path, want)
	if got, err := ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Error(len(got), err)
	}
	for name, x := range unusable {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "file")
			if err := x.become(path); err != nil {
				t.Fatal(err)
			}
			soon(t, func() {
				if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), x.says) {
					t.Error(err)
				}
			})
		})
	}
}

// soon fails the test if f does not return.
func soon(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not return")
	}
}
