package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// cached returns the folder in opts.Cache with what these binaries' initdb makes for this account, or "" if there is no
// cache.
func (c *Cluster) cached() string {
	info, err := os.Stat(filepath.Join(c.bin, "initdb"))
	if c.opts.Cache == "" || err != nil {
		return ""
	}
	uid := os.Geteuid()
	if c.folder.account != nil {
		uid = int(c.folder.account.Uid)
	}
	return filepath.Join(c.opts.Cache, fmt.Sprintf("initdb-%s-%d-%d", shortHash(c.bin), info.ModTime().Unix(), uid))
}

// fromCache copies to the empty folder data what the cache has, and reports whether it has something.
func (c *Cluster) fromCache(ctx context.Context, data string) (bool, error) {
	cached := c.cached()
	if _, err := os.Stat(cached); cached == "" || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, copyFolder(ctx, cached, data)
}

// toCache keeps what initdb has made for the next server.
func (c *Cluster) toCache(ctx context.Context, data string) error {
	cached := c.cached()
	if cached == "" {
		return nil
	}
	if err := os.MkdirAll(c.opts.Cache, 0o700); err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(c.opts.Cache, "unfinished-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	if err := copyFolder(ctx, data, unfinished); err != nil {
		return err
	}
	syscall.Sync() // a crash of the machine may not leave half of it
	if err := os.Rename(unfinished, cached); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// copyFolder copies what a folder has to another one, with owners and modes.
func copyFolder(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s to %s: %w: %s", from, to, err, out)
	}
	return nil
}
