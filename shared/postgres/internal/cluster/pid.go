package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// awaitNoServer waits for the server of a process that has just ended. It returns an error if a server still runs on
// the data folder after that.
func awaitNoServer(data string) error {
	for deadline := time.Now().Add(staleTimeout); ; time.Sleep(50 * time.Millisecond) {
		pids := servers(data)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errServer(data, pids)
		}
	}
}

func errServer(data string, pids []int) error {
	return fmt.Errorf("a PostgreSQL without a service still runs on %s, process %d: stop it with kill -INT %[2]d", data, pids[0])
}

// releaseLocks prepares the server's lock files for the next server. This process holds the folder's lock and no server
// runs on the data, so the process ids in them have been reused.
func (c *Cluster) releaseLocks() error {
	return errors.Join(c.releaseLock(c.pidFile()), c.releaseLock(c.folder.socketFile()+".lock"))
}

func (c *Cluster) releaseLock(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	first, rest, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	switch {
	case err != nil || pid == 0:
		c.opts.Logger.Warn("deleted a damaged lock file of PostgreSQL", "file", path)
		return os.Remove(path)
	case !alive(max(pid, -pid)): // PostgreSQL replaces it
		return nil
	}
	c.opts.Logger.Info("lock file of PostgreSQL names a process that is no server of this folder", "file", path, "pid", pid)
	// The server treats its parent's id as stale, and still checks the shared memory that the other lines name.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n%s", os.Getpid(), rest)
	return errors.Join(err, f.Close())
}
