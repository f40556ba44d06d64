package pgtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Freeze stops all processes of the server where they are, until thaw is called or the test ends.
func (s *Server) Freeze(t testing.TB) (thaw func()) {
	t.Helper()
	stopped := s.freeze(t)
	thaw = sync.OnceFunc(func() {
		for _, pid := range stopped {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	})
	t.Cleanup(thaw)
	return thaw
}

// freeze stops all processes of the server, and returns their ids.
func (s *Server) freeze(t testing.TB) (stopped []int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.cluster.Folder(), "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	stop := func(pid int) {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err == nil {
			stopped = append(stopped, pid)
		} else if !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	stop(postmaster) // which starts no others then
	out, err := exec.Command("ps", "-axo", "pid=,ppid=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if ids := strings.Fields(line); len(ids) == 2 && ids[1] == first {
			if pid, err := strconv.Atoi(ids[0]); err == nil {
				stop(pid)
			}
		}
	}
	return stopped
}
