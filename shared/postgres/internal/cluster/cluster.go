// Package cluster runs a private PostgreSQL server, on a Unix socket that only its user may reach, for the life of this
// process: it is stopped even when that ends by SIGKILL.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// Options configure a server.
type Options struct {
	Dir      string       // the server's folder, created if missing
	Fallback bool         // Dir is the default: if the server's user cannot enter it, the data goes under /var/lib/edison-cars
	Bin      string       // folder of the PostgreSQL binaries; empty: searched for
	Volatile bool         // for tests: faster, but a crash of the machine may corrupt the data
	Cache    string       // for tests: folder in which what initdb makes is kept for the next server; empty: none
	Watchdog bool         // watch this process by a pipe even if the kernel offers a better way
	Logger   *slog.Logger // required
}

// A Cluster is a running server. It is restarted if it ends by itself.
type Cluster struct {
	opts   Options
	folder *folder
	bin    string
	cancel context.CancelFunc
	done   chan struct{}
}

// Start creates the database cluster if there is none, and returns when its server accepts connections. Cancelling ctx
// interrupts Start; afterwards it has no effect. Start returns an error if another process runs a server in the folder,
// and names that process. It also returns an error if the folder once had a database and has none now; Remove allows a
// new one. Start removes PostgreSQL's variables, such as PGSERVICE and PGOPTIONS, from the environment of this process:
// they are for other servers.
func Start(ctx context.Context, opts Options) (_ *Cluster, err error) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") && name != "PGBIN" {
			os.Unsetenv(name)
		}
	}
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
		} else if errors.Is(err, ErrNoBinaries) {
			err = fmt.Errorf("%w; or set DATABASE_URL to a running server", err)
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

// URL returns the connection URL of a database, for this process and for others of the same user.
func (c *Cluster) URL(database string) string {
	query := url.Values{"host": {c.folder.socket}, "port": {port}, "sslmode": {"disable"}}.Encode()
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(superuser),
		Path:     "/" + database,
		RawQuery: strings.ReplaceAll(query, "+", "%20"), // in a PostgreSQL URL, a plus is no space
	}
	return u.String()
}

// Folder returns the folder of the server's data and log: Options.Dir, unless its user cannot enter that.
func (c *Cluster) Folder() string { return c.folder.home }

// Bin returns the folder of the server's binaries.
func (c *Cluster) Bin() string { return c.bin }

// Stop ends open sessions, stops the server, and returns when it is gone. It may be called repeatedly.
func (c *Cluster) Stop() {
	c.cancel()
	<-c.done
	c.folder.close()
}

// Remove deletes the data of the server in dir, except the lock file. It fails while the server is running.
func Remove(dir string) error {
	dir, err := resolved(dir)
	if err != nil {
		return err
	}
	f := &folder{dir: dir, home: dir}
	if os.Geteuid() == 0 && exists(fallbackHome(dir)) {
		f.home = fallbackHome(dir)
	}
	if exists(dir) {
		lock, err := daemon.Lock(filepath.Join(dir, lockName))
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	// The server of a process that has just ended may still write.
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
	for _, marker := range f.markers() { // the markers go last: until then the folder still says that it had a database
		if removeErr := os.Remove(marker); !errors.Is(removeErr, os.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	return err
}

// supervise keeps the server running until life ends, then stops it.
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
		log.Error("private PostgreSQL ended, restarting it", "error", server.failure())
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
				log.Error("private PostgreSQL does not start, retrying", "error", err)
			}
		}
		log.Info("private PostgreSQL runs again")
	}
}
