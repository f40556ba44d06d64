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

// A LockedFile is a file that this process has locked.
type LockedFile struct{ *os.File }

// Close releases the lock. After the file's own Close alone, a child that is just being started would keep it.
func (f *LockedFile) Close() error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.File.Close())
}

// Lock locks a file for this process, creates it if it is missing, and writes the process id into it. The kernel
// releases the lock at the end of the process, too. If another process has the lock, the error names it.
func Lock(path string) (_ *LockedFile, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	lock := &LockedFile{file}
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
		return nil, errors.Join(err, file.Close())
	}
	return lock, nil
}
