package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
)

const (
	mostStandbys = 2
	coldReaders  = 8
	standbyPort  = "5432" // part of the name of its socket
)

// standbys lets many read pages that are not in memory, while none, one or two hot standbys relieve the primary.
func (s *scale) standbys(ctx context.Context) (chart, error) {
	fmt.Fprintf(s.out, "\nPages of %d entries that are not in memory, to %d readers for %v; %d rounds by turns\n", feed.PageSize, coldReaders, s.duration, s.rounds)
	if err := s.fill(ctx, s.entries); err != nil {
		return chart{}, err
	}
	primary, err := findPostmaster(ctx, s.source.Pool)
	if err != nil {
		return chart{}, err
	}
	tokens, listed := make([]string, coldReaders), make([]string, coldReaders) // each is a client of its own
	for i := range tokens {
		token, hash := access.NewToken()
		tokens[i], listed[i] = token, fmt.Sprintf("reader%d:reader:%s", i, hash)
	}
	var folders []string
	var sources []*process
	for n := range mostStandbys + 1 {
		settings := map[string]string{"TOKENS": strings.Join(listed, ",")}
		if n > 0 {
			dir := filepath.Join(s.dir, fmt.Sprint("standby", n))
			if _, err := s.start(ctx, standbyKind, dir, map[string]string{upstreamEnv: s.source.Config().ConnString()}); err != nil {
				return chart{}, err
			}
			folders = append(folders, dir)
			settings["DATABASE_READ_URL"] = s.standbysURL(folders)
		}
		source, err := s.startApp(ctx, settings)
		if err != nil {
			return chart{}, err
		}
		defer source.stop()
		sources = append(sources, source)
	}
	if err := s.replayed(ctx); err != nil {
		return chart{}, err
	}
	paths, err := s.coldPaths(ctx)
	if err != nil {
		return chart{}, err
	}
	rates, cpu := make([][]float64, len(sources)), make([][]float64, len(sources))
	next := make([]atomic.Int64, len(sources)) // page, of each source
	for round := range s.rounds {
		for turn := range sources {
			k := (turn + round) % len(sources)
			before, err := primary.cpu()
			if err != nil {
				return chart{}, err
			}
			began, first := time.Now(), next[k].Load()
			if err := readCold(ctx, sources[k].addr, tokens, paths, &next[k], s.duration); err != nil {
				return chart{}, err
			}
			took, done := time.Since(began), float64(next[k].Load()-first)
			after, err := primary.cpu()
			if err != nil {
				return chart{}, err
			}
			rates[k] = append(rates[k], done/took.Seconds())
			cpu[k] = append(cpu[k], float64((after-before).Nanoseconds())/1e3/done)
		}
	}
	t := s.out.table("standbys", "pages/s", ": without", "primary's CPU us/page", "CPU without : it")
	c := chart{title: "CPU of the primary per page that is not in memory (shorter is better)", unit: " µs", series: []string{"a page"}}
	for n := range sources {
		t.row(fmt.Sprint(n), number(median(rates[n])), ratios(rates[n], rates[0]), number(median(cpu[n])), ratios(cpu[0], cpu[n]))
		c.groups = append(c.groups, group{fmt.Sprint(n, " standbys"), []float64{median(cpu[n])}})
	}
	return c, t.flush()
}

// replayed returns when all standbys have what the primary has.
func (s *scale) replayed(ctx context.Context) error {
	return eventually(ctx, func() (all bool, err error) {
		err = s.source.QueryRow(ctx, `select count(*) = $1 and bool_and(replay_lsn >= pg_current_wal_lsn()) from pg_stat_replication`, mostStandbys).Scan(&all)
		return all, err
	})
}

// standbysURL returns the URL of the source's database at the standbys in the folders.
func (s *scale) standbysURL(folders []string) string {
	at := s.source.Config().ConnConfig
	ports := slices.Repeat([]string{standbyPort}, len(folders))
	u := url.URL{Scheme: "postgres", User: url.User(at.User), Path: "/" + at.Database, RawQuery: url.Values{
		"host": {strings.Join(folders, ",")}, "port": {strings.Join(ports, ",")},
	}.Encode()}
	return u.String()
}

// coldPaths returns the URL of the page after each entry, in no order.
func (s *scale) coldPaths(ctx context.Context) ([]string, error) {
	rows, err := s.source.Query(ctx, `select position, digest from feed_entry where feed = $1 and position % $2 <> 0`, order.Feed, feed.PageSize)
	if err != nil {
		return nil, err
	}
	paths, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var position int64
		var digest []byte
		err := row.Scan(&position, &digest)
		if err != nil {
			return "", err
		}
		return pagePath(feed.At(position, feed.Digest(digest)), feed.PageSize), nil
	})
	rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	return paths, err
}

// readCold lets a reader for each token read pages for the time: paths from next on, each once.
func readCold(ctx context.Context, addr string, tokens, paths []string, next *atomic.Int64, limit time.Duration) error {
	all, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for _, token := range tokens {
		all.Go(func() error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			r := bufio.NewReaderSize(conn, 16<<10)
			for time.Since(began) < limit {
				path := paths[(next.Add(1)-1)%int64(len(paths))]
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err = conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + "\r\n\r\n")); err == nil {
					_, err = readAnswer(r, http.StatusOK, nil)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// serveStandby copies the server at a URL into a folder, and runs the copy as a hot standby until ctx ends.
func serveStandby(ctx context.Context, dir, primary string, stdout io.Writer) error {
	conn, err := pgx.Connect(ctx, primary)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var bin, data string
	err = conn.QueryRow(ctx, `select setting, current_setting('data_directory') from pg_config where name = 'BINDIR'`).Scan(&bin, &data)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return err
	}
	asOwner := func(*exec.Cmd) {}
	if os.Geteuid() == 0 {
		info, err := os.Stat(data)
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
		asOwner = func(cmd *exec.Cmd) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
	}
	data = filepath.Join(dir, "data")
	backup := exec.CommandContext(ctx, filepath.Join(bin, "pg_basebackup"), "--dbname="+primary, "--pgdata="+data, "--write-recovery-conf", "--checkpoint=fast")
	backup.Dir = dir
	asOwner(backup)
	if out, err := backup.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w\n%s", err, out)
	}
	command := []string{filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-h", "", "-p", standbyPort}
	return runServer(ctx, filepath.Join(dir, ".s.PGSQL."+standbyPort), command, stdout, func(cmd *exec.Cmd) {
		asOwner(cmd)
		cmd.Dir = dir
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) } // a fast shutdown
		cmd.WaitDelay = stopTimeout
	})
}
