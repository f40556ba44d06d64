package publish

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// create creates the file if it is missing and mayMake is set. Otherwise a missing file is an error. create reports
// whether it has created the file.
func (l *erasedList) create(mayMake bool) (made bool, err error) {
	flags := os.O_RDWR | os.O_APPEND
	_, err = os.Stat(l.path)
	if made = errors.Is(err, os.ErrNotExist); made {
		if !mayMake {
			return false, fmt.Errorf("the list of erased ids %s is missing, and this database was used with one: mount or restore it. "+
				"If it is lost for good, make an empty file there; it will get the ids that the database knows", l.path)
		}
		if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
			return false, fmt.Errorf("make the folder of the list of erased ids: %w", err)
		}
		flags |= os.O_CREATE
	}
	f, err := l.open(flags, syscall.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if !made {
		return false, nil
	}
	if info, err := f.Stat(); err != nil || info.Size() > 0 { // another process was faster
		return false, err
	}
	if _, err = f.WriteString(listHead); err == nil {
		err = f.Sync()
	}
	for _, folder := range []string{filepath.Dir(l.path), filepath.Dir(filepath.Dir(l.path))} {
		if err == nil {
			err = syncFolder(folder)
		}
	}
	return true, err
}

// claim notes on the list of which log it is, if it does not say so yet. It returns an error if the list is of another
// one: what is erased in one would be erased in the other.
func (l *erasedList) claim(log uuid.UUID) error {
	f, err := l.open(os.O_RDONLY, syscall.LOCK_SH)
	if err != nil {
		return err
	}
	defer f.Close()
	if claimed, err := l.claimed(f, log); claimed || err != nil {
		return err
	}
	f.Close()
	if f, err = l.open(os.O_RDWR|os.O_APPEND, syscall.LOCK_EX); err != nil {
		return err
	}
	defer f.Close()
	if claimed, err := l.claimed(f, log); claimed || err != nil { // another process was faster
		return err
	}
	_, _, err = l.write(f, []byte(ofLog+log.String()+"\n"))
	return err
}

// claimed reports whether the file says that it is of the log. It returns an error if the file is of another one.
func (l *erasedList) claimed(f *os.File, log uuid.UUID) (bool, error) {
	other := ""
	lines := bufio.NewReader(f)
	for ended := false; !ended; {
		line, err := lines.ReadString('\n')
		if ended = errors.Is(err, io.EOF); err != nil && !ended {
			return false, fmt.Errorf("read the list of erased ids: %w", err)
		}
		id, is := strings.CutPrefix(strings.TrimSpace(line), ofLog)
		if is && id == log.String() {
			return true, nil
		} else if is {
			other = id
		}
	}
	if other != "" {
		return false, fmt.Errorf("the list of erased ids %s is of another log, %s, and this one is %s: each needs a list of its own, so set ERASED_FILE. "+
			"If this log takes the place of that one, which is gone, add the line %q to the list", l.path, other, log, ofLog+log.String())
	}
	return false, nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// open opens the file and locks it until it is closed.
func (l *erasedList) open(flags, lock int) (*os.File, error) {
	if info, err := os.Stat(l.path); err == nil && !info.Mode().IsRegular() { // a device may have no end, and a pipe no beginning
		return nil, fmt.Errorf("the list of erased ids %s is not a regular file", l.path)
	}
	f, err := os.OpenFile(l.path, flags, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the list of erased ids: %w", err)
	}
	for deadline := time.Now().Add(listLockTimeout); ; time.Sleep(5 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), lock|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("lock the list of erased ids %s: %w", l.path, err)
		}
	}
}

// same reports whether the file is as it was: the same one, with the same length and time of change.
func same(was, is os.FileInfo) bool {
	return was != nil && os.SameFile(was, is) && was.Size() == is.Size() && was.ModTime().Equal(is.ModTime())
}

// append returns the state of the file before and after.
func (l *erasedList) append(lines []byte) (was, is os.FileInfo, err error) {
	f, err := l.open(os.O_RDWR|os.O_APPEND, syscall.LOCK_EX)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	return l.write(f, lines)
}

// write appends lines to the file, which is locked, and returns its state before and after.
func (l *erasedList) write(f *os.File, lines []byte) (was, is os.FileInfo, err error) {
	if was, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	end, lead, err := repair(f, was.Size())
	if err != nil {
		return nil, nil, err
	}
	lines = append([]byte(lead), lines...)
	if _, err = f.Write(lines); err == nil {
		err = f.Sync()
	}
	if err != nil { // a refused id must not stay on the list: it would be erased later
		return nil, nil, errors.Join(err, f.Truncate(end))
	}
	if is, err = os.Stat(l.path); err != nil || !os.SameFile(was, is) {
		return nil, nil, errReplaced
	}
	return was, is, nil
}

// repair removes a last line that a crash has cut off, and returns the new end of the file. lead completes a last line
// that lacks only its newline.
func repair(f *os.File, size int64) (end int64, lead string, err error) {
	var tail []byte
	for n := int64(listTail); ; n *= 8 { // a crash may leave a hole of any length
		tail = make([]byte, min(size, n))
		if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
			return 0, "", err
		}
		if n >= size || bytes.IndexByte(tail, '\n') >= 0 {
			break
		}
	}
	last := tail[bytes.LastIndexByte(tail, '\n')+1:]
	if len(last) == 0 {
		return size, "", nil
	}
	if _, _, err := parseErased(string(last)); err == nil {
		return size, "\n", nil
	}
	if wholeID.Match(last) {
		return 0, "", errors.New("the last line of the list of erased ids is not valid: correct it")
	}
	end = size - int64(len(last))
	return end, "", f.Truncate(end)
}

// stat returns the state of the file, or nil if it cannot be read.
func (l *erasedList) stat() os.FileInfo {
	if info, err := os.Stat(l.path); err == nil && info.Mode().IsRegular() {
		return info
	}
	return nil
}
