// Package cluster runs one private PostgreSQL server that lives no longer than this process.
//
// The server listens on a Unix socket in a folder that only its own user may enter, and it is
// stopped when the process ends, however it ends.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// Options says which server to run.
type Options struct {
	Dir      string       // the server's folder, made when missing
	Fallback bool         // nobody has chosen Dir: where the server's user cannot enter it, the data goes under /var/lib/edison-cars
	Bin      string       // folder of the PostgreSQL binaries; empty: searched for
	Volatile bool         // for tests: faster, but a crash of the machine may break the data
	Watchdog bool         // watch over this process's life by a pipe even where the kernel can
	Logger   *slog.Logger // required
}

// Cluster is a running server. It is started again when it ends by itself.
type Cluster struct {
	opts   Options
	folder *folder
	bin    string
	cancel context.CancelFunc
	done   chan struct{}
}

// Start makes the database cluster when there is none yet, and returns when its server takes
// connections. Cancelling ctx gives up; afterwards it has no effect. A folder that another process
// has started a server in is an error that names that process. A folder that has had a database and
// has none now is an error, too: Remove lets it begin over.
func Start(ctx context.Context, opts Options) (_ *Cluster, err error) {
	folder, err := openFolder(opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			folder.close()
		}
	}()
	c := &Cluster{opts: opts, folder: folder, done: make(chan struct{})}
	major, err := c.dataVersion()
	if err != nil {
		return nil, err
	}
	if c.bin, err = findBinaries(ctx, opts.Bin, major); err != nil {
		if major != 0 && ctx.Err() == nil {
			err = fmt.Errorf("%w; to start over, delete %s%s", err, folder.data, folder.andMarkers())
		}
		return nil, err
	}
	c.removeLeftovers()
	if major == 0 {
		if err := c.initdb(ctx); err != nil {
			return nil, fmt.Errorf("make a database cluster in %s: %w", folder.home, err)
		}
	}
	if !opts.Volatile {
		folder.mark()
	}
	server, err := c.launch(ctx)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL in %s: %w", folder.home, err)
	}
	var life context.Context
	life, c.cancel = context.WithCancel(context.Background())
	go c.supervise(life, server)
	return c, nil
}

// URL is the connection URL of a database of the server, for this process and for others of the
// same user.
func (c *Cluster) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(superuser),
		Path:     "/" + database,
		RawQuery: url.Values{"host": {c.folder.socket}, "port": {port}, "sslmode": {"disable"}}.Encode(),
	}
	return u.String()
}

// Folder is where the server keeps its data and its log: Options.Dir unless its user cannot enter
// that.
func (c *Cluster) Folder() string { return c.folder.home }

// Bin is the folder of the server's binaries.
func (c *Cluster) Bin() string { return c.bin }

// Stop ends open sessions, stops the server and returns when it is gone. It may be called again.
func (c *Cluster) Stop() {
	c.cancel()
	<-c.done
	c.folder.close()
}

// Remove deletes the data of the server that was started in dir, all but the lock file. It fails
// when the server is running.
func Remove(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	f := &folder{dir: dir, home: dir}
	if target, _ := os.Readlink(filepath.Join(dir, "data")); target == filepath.Join(oldHome(dir), "data") {
		f.home = oldHome(dir)
	} else if os.Geteuid() == 0 && exists(fallbackHome(dir)) {
		f.home = fallbackHome(dir)
	}
	if exists(dir) {
		lock, err := lockFolder(dir)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	// The server of a process that ended a moment ago still writes.
	if err := awaitNoServer(filepath.Join(f.home, "data")); err != nil {
		return err
	}
	if f.home != dir {
		err = os.RemoveAll(f.home)
		os.Remove(fallbackRoot) // only if it is empty
	}
	entries, readErr := os.ReadDir(dir)
	if errors.Is(readErr, os.ErrNotExist) {
		readErr = nil
	}
	err = errors.Join(err, readErr)
	for _, entry := range entries {
		if entry.Name() != lockName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
		}
	}
	if err != nil {
		return err
	}
	for _, marker := range f.markers() { // the last: until then, what is left is no fresh start
		if removeErr := os.Remove(marker); !errors.Is(removeErr, os.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	return err
}

// supervise keeps a server running until life ends, then stops it.
func (c *Cluster) supervise(life context.Context, server *process) {
	defer close(c.done)
	log := c.opts.Logger.With("folder", c.folder.home)
	backoff := minBackoff
	for {
		began := time.Now()
		select {
		case <-life.Done():
			server.stop(c.opts.Volatile)
			return
		case <-server.exited:
		}
		log.Error("private PostgreSQL ended by itself, starting it again", "error", server.failure())
		if time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		for server = nil; server == nil; backoff = min(2*backoff, maxBackoff) {
			select {
			case <-life.Done():
				return
			case <-time.After(backoff):
			}
			var err error
			if server, err = c.launch(life); err != nil && life.Err() == nil {
				log.Error("private PostgreSQL does not start, trying again", "error", err)
			}
		}
		log.Info("private PostgreSQL runs again")
	}
}
