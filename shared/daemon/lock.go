package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrInUse is wrapped by the error of [Lock] if another process has the lock.
var ErrInUse = errors.New("in use")

// Lock locks a file for this process, creates it if it is missing, and writes the process id into it. The kernel
// releases the lock when the file is closed, also by the end of the process. If another process has the lock, the error
// names it.
func Lock(path string) (_ *os.File, err error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	switch err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		err = lock.Truncate(0)
	case errors.Is(err, syscall.EWOULDBLOCK):
		pid, _ := io.ReadAll(lock)
		err = fmt.Errorf("%s is %w by process %s", filepath.Dir(path), ErrInUse, strings.TrimSpace(string(pid)))
	default:
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	if err == nil {
		_, err = fmt.Fprintln(lock, os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}
