package webserver

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

const maxFile = 1 << 20 // bytes

// ReadFile returns the content of a file that a setting names, of at most 1 MiB. It never waits: what is not a regular
// file is an error, since a pipe may have no writer, and a device no end.
func ReadFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return text, err
}
