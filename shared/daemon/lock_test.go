package daemon

import (
	"path/filepath"
	"syscall"
	"testing"
)

// Close releases a lock although somebody else has the file open still, as a child has for a moment that is being started.
func TestClosedLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	child, err := syscall.Dup(int(first.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(child) }()
	if _, err := Lock(path); err == nil {
		t.Error("two have the lock")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	second, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}
