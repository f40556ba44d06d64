package pgtest

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

const (
	memory     = "/dev/shm" // on Linux
	needMemory = 4 << 30    // bytes
	noExec     = 8          // ST_NOEXEC of statvfs(3)
)

// parent returns the folder for data of servers: in memory if there is enough of it, which is several times as fast as
// a disk, also without fsync, or else in the folder for temporary files. TMPDIR overrides it.
var parent = sync.OnceValue(func() string {
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(memory, &fs) != nil || fs.Flags&noExec != 0 || fs.Bavail*uint64(fs.Bsize) < needMemory {
		return os.TempDir()
	}
	return memory
})

// cache returns the folder that keeps what initdb makes from one test process to the next, or "" if the user has none.
// initdb takes longer than most tests.
func cache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "edison-pgtest")
}

// MkdirTemp is os.MkdirTemp in a folder that suits servers: it is in memory if there is enough of that.
func MkdirTemp(pattern string) (dir string, err error) {
	if dir, err = os.MkdirTemp(parent(), pattern); err != nil { // such as of an account that may not write there
		return os.MkdirTemp("", pattern)
	}
	return dir, nil
}

// Dir returns a temporary folder for postgres.Config.Dir which the user of a private server can enter, also if the
// tests run as root. It is deleted at the end of the test. Under -short, Dir skips the test.
func Dir(t testing.TB) string {
	t.Helper()
	Slow(t, "a server of its own")
	dir, err := MkdirTemp("edison-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
