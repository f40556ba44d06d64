package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/procfs"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/sql"
)

// failovers measures for how long a source sells nothing when its primary dies.
type failovers struct {
	*bench
	rounds int
}

const buyersAtOnce = 8

func (f *failovers) run(ctx context.Context) (chart, error) {
	if master, err := findPostmaster(ctx, f.source.Pool); err != nil || master == 0 {
		fmt.Fprintln(f.out, "failover is left out: it needs /proc")
		return chart{}, err
	}
	fmt.Fprintf(f.out, "\nFailover: %d buyers; the primary is killed, its synchronous standby promoted at once; %d rounds\n", buyersAtOnce, f.rounds)
	var promoted, next []float64
	var acknowledged, lost int
	for round := range f.rounds {
		r, err := f.round(ctx, filepath.Join(f.dir, fmt.Sprint("failover", round)))
		if err != nil {
			return chart{}, err
		}
		promoted, next = append(promoted, milliseconds(r.promoted)), append(next, milliseconds(r.next))
		acknowledged, lost = acknowledged+r.acknowledged, lost+r.lost
	}
	t := f.out.table("from the primary's death to", "ms", "acknowledged", "lost of them")
	t.row("the end of the promotion", spread(promoted), "", "")
	t.row("the next sale", spread(next), count(acknowledged), count(lost))
	c := chart{title: "From the death of the primary (shorter is better)", unit: " ms", series: []string{"median"}, groups: []group{
		{"promoted", []float64{median(promoted)}}, {"the next sale", []float64{median(next)}}}}
	return c, t.flush()
}

type failover struct {
	promoted, next     time.Duration // from the death of the primary; next is to the answer to a buyer who came after it
	acknowledged, lost int           // sales
}

// round kills a primary of its own.
func (f *failovers) round(ctx context.Context, dir string) (r failover, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	primary, err := f.start(ctx, primaryKind, dir, nil)
	if err != nil {
		return r, err
	}
	defer func() { primary.kill() }()
	db, err := postgres.Open(ctx, postgres.Config{URL: primary.addr, Name: "postgres"})
	if err != nil {
		return r, err
	}
	defer db.Close()
	if err := migrate.Up(ctx, db.Pool, "", sql.Migrations("publish"), sql.Migrations("sales")); err != nil {
		return r, err
	}
	master, err := findPostmaster(ctx, db.Pool)
	if err != nil {
		return r, err
	}
	standby, standbyURL, err := f.startStandby(ctx, db, filepath.Join(dir, "standby"))
	if err != nil {
		return r, err
	}
	defer func() { _, stopErr := standby.stop(); err = errors.Join(err, stopErr) }()
	for _, command := range []string{`alter system set synchronous_standby_names = '*'`, `select pg_reload_conf()`} {
		if _, err := db.Exec(ctx, command); err != nil {
			return r, err
		}
	}
	app, err := f.start(ctx, shop.SalesByFeed, urlOf(db, db.Config().ConnConfig.Host, standby.addr), nil)
	if err != nil {
		return r, err
	}
	defer app.kill()
	buyers := &buyers{app: app}
	buying, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	for range buyersAtOnce {
		all.Go(func() { buyers.buy(buying) })
	}
	if _, err := buyers.next(ctx, time.Now()); err != nil {
		return r, err
	}
	promoter, err := pgx.Connect(ctx, standbyURL)
	if err != nil {
		return r, err
	}
	defer promoter.Close(ctx)
	if err := master.kill(); err != nil {
		return r, err
	}
	died := time.Now()
	primary.kill() // it would start the server again
	if _, err := promoter.Exec(ctx, `select pg_promote()`); err != nil {
		return r, err
	}
	r.promoted = time.Since(died)
	next, err := buyers.next(ctx, died)
	if err != nil {
		return r, err
	}
	r.next = next.Sub(died)
	stop()
	all.Wait()
	r.acknowledged = len(buyers.sales)
	r.lost, err = buyers.lost(ctx, promoter)
	return r, err
}

// buyers buy at one process, and know what was acknowledged.
type buyers struct {
	app *process

	mu    sync.Mutex
	sales []sale
}

type sale struct {
	id           uuid.UUID
	began, ended time.Time
}

// buy buys one order after the other.
func (b *buyers) buy(ctx context.Context) {
	for ctx.Err() == nil {
		s := sale{id: shop.NewID(), began: time.Now()}
		if _, err := b.app.sell(ctx, s.id); err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(watchInterval):
			}
			continue
		}
		s.ended = time.Now()
		b.mu.Lock()
		b.sales = append(b.sales, s)
		b.mu.Unlock()
	}
}

// next returns when the first sale that began after the given time was acknowledged.
func (b *buyers) next(ctx context.Context, after time.Time) (at time.Time, err error) {
	err = eventually(ctx, func() (bool, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		i := slices.IndexFunc(b.sales, func(s sale) bool { return s.began.After(after) })
		if i >= 0 {
			at = b.sales[i].ended
		}
		return i >= 0, nil
	})
	return at, err
}

// lost returns how many acknowledged sales the database does not have, as an order and as an entry of the feed.
func (b *buyers) lost(ctx context.Context, db *pgx.Conn) (n int, err error) {
	var ids []string
	for _, s := range b.sales {
		ids = append(ids, s.id.String())
	}
	err = db.QueryRow(ctx, `select count(*) from orders join feed_entry on entity_id = orders.id where orders.id = any($1::uuid[])`, ids).Scan(&n)
	return len(ids) - n, err
}

// kill ends all processes of the server by SIGKILL, as the loss of its machine does.
func (p postmaster) kill() error {
	all, err := procfs.AllProcs()
	if err != nil {
		return err
	}
	pids := []int{int(p)}
	for _, proc := range all {
		if stat, err := proc.Stat(); err == nil && stat.PPID == int(p) {
			pids = append(pids, proc.PID)
		}
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

const binEnv = "BENCH_BIN" // the folder of PostgreSQL's programs

// startStandby starts a standby on a base backup, and returns when it answers.
func (f *failovers) startStandby(ctx context.Context, primary *postgres.DB, dir string) (standby *process, url string, err error) {
	var bin, data string
	err = primary.QueryRow(ctx, `select setting, current_setting('data_directory') from pg_config where name = 'BINDIR'`).Scan(&bin, &data)
	if err != nil {
		return nil, "", err
	}
	as, err := ownerOf(data)
	if err != nil {
		return nil, "", err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, "", err
	}
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, "", err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "pg_basebackup"), "--dbname="+primary.Config().ConnString(),
		"--pgdata="+filepath.Join(dir, "data"), "--write-recovery-conf", "--checkpoint=fast")
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	if standby, err = f.start(ctx, replicaKind, dir, map[string]string{binEnv: bin}); err != nil {
		return nil, "", err
	}
	url = urlOf(primary, dir)
	return standby, url, eventually(ctx, func() (bool, error) {
		select {
		case <-standby.ended:
			return false, standby.complaint()
		default:
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return false, nil //nolint:nilerr // it may not have started yet
		}
		return true, conn.Close(ctx)
	})
}

// serveReplica runs PostgreSQL as this process's child, so that it ends with it.
func serveReplica(ctx context.Context, dir string, env map[string]string, stdout io.Writer) error {
	data := filepath.Join(dir, "data")
	as, err := ownerOf(data)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(env[binEnv], "postgres"), "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+dir,
		"-c", "max_connections=60", "-c", "shared_buffers=64MB") // as the primary has them
	cmd.Dir, cmd.SysProcAttr, cmd.Stderr = dir, &syscall.SysProcAttr{Credential: as, Setpgid: true}, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // at once
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Fprintln(stdout, dir)
	if err := cmd.Wait(); ctx.Err() == nil {
		return fmt.Errorf("PostgreSQL ended: %w", err)
	}
	return nil
}

// ownerOf returns the owner of a folder, or nil if it takes root to act as another user, and this process is not.
func ownerOf(dir string) (*syscall.Credential, error) {
	info, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}, nil
}

// urlOf returns the URL of whichever of the hosts takes writes, for the user and database of db. All have its port.
func urlOf(db *postgres.DB, hosts ...string) string {
	c := db.Config().ConnConfig
	u := url.URL{Scheme: "postgres", User: url.User(c.User), Path: "/" + c.Database, RawQuery: url.Values{
		"host": {strings.Join(hosts, ",")}, "port": {fmt.Sprint(c.Port)}, "sslmode": {"disable"},
	}.Encode()}
	return u.String()
}
