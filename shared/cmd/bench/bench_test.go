package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/deploy/cache"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// TestMain lets the test's binary be the command, too: as the processes that are measured, and as a bench that is
// stopped.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == serveArg || parts[os.Args[1]] != nil) {
		daemon.Main(run)
	}
	os.Exit(m.Run())
}

// quick runs a command once, small, and returns its tables and how many bars its picture has.
func quick(t *testing.T, command string) (out string, bars int) {
	t.Helper()
	pgtest.Slow(t, "a benchmark")
	var b strings.Builder
	picture := filepath.Join(t.TempDir(), "bench.svg")
	env := map[string]string{"PATH": os.Getenv("PATH"), "TMPDIR": pgtest.Dir(t)}
	if err := run(t.Context(), []string{command, "--quick", "--markdown", "--out", picture}, env, &b); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	svg, err := os.Open(picture)
	if err != nil {
		t.Fatal(err)
	}
	defer svg.Close()
	for d := xml.NewDecoder(svg); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	machine := regexp.MustCompile(`\d+ cores, .*PostgreSQL \d+.*fsync on, synchronous_commit on`)
	if !machine.MatchString(b.String()) {
		t.Errorf("nothing matches %s", machine)
	}
	return b.String(), bars
}

// Expressions of cells.
const (
	positive = `[\d,.]*[1-9][\d,.]*`
	figure   = `-?[\d,.]+` // may be 0 or less: CPU time, less that of idle time; a delay, where the commit is seen before it returns
	ratio    = `(?:[\d.,]+ \([\d.,-]+\)|-)`
	none     = `-`
)

// wantRows checks that there are rows of these cells, expressions all of them.
func wantRows(t *testing.T, out string, rows ...[]string) {
	t.Helper()
	for _, cells := range rows {
		if row := `(?m)^\| ` + strings.Join(cells, ` \| `) + ` \|$`; !regexp.MustCompile(row).MatchString(out) {
			t.Errorf("%s\nnothing matches %s", out, row)
		}
	}
}

func TestFeed(t *testing.T) {
	t.Parallel()
	out, bars := quick(t, "feed")
	for _, writers := range writerCounts {
		missed := figure + " of " + positive
		wantRows(t, out, []string{fmt.Sprint(writers), positive, positive, positive, ratio, ratio, "0 of " + positive,
			missed, missed})
	}
	pages := []string{"304", "tail", "sealed", "sealed gzip", "Atom"}
	for _, page := range pages {
		wantRows(t, out, []string{page, "feed", positive, figure, figure, ratio, ratio, ratio})
	}
	for _, page := range pages[1:4] {
		wantRows(t, out, []string{page, "structs", positive, figure, figure, ratio, ratio, ratio})
	}
	for _, reader := range []string{"wait", "wait, replica", "poll every 1 s"} {
		wantRows(t, out, []string{reader, "20", figure, positive, positive})
	}
	wantRows(t, out,
		[]string{"200", `(?:` + figure + `|-)`, none, ratio},
		[]string{"alone", positive, positive, ratio, figure},
		[]string{"with cold walkers", positive, positive, ratio, figure})
	if bars < 4*3+2+3*2 { // of the pages, only nginx and the feed's; a CPU time below that of idle time has no bar
		t.Errorf("the picture has %d bars", bars)
	}
	t.Run("against nginx", func(t *testing.T) {
		if strings.Contains(out, noNginx) {
			t.Skip(noNginx)
		}
		for _, page := range pages {
			wantRows(t, out, []string{page, "nginx", positive, figure, figure, ratio, ratio, ratio})
		}
	})
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	out, bars := quick(t, "subscribe")
	fresh := []string{positive, figure, positive, positive, ratio, ratio}
	wantRows(t, out,
		[]string{"source", positive, figure},
		[]string{"source's DB", positive, figure}, // a poll may cost less than what goes on anyway
		[]string{"subscriber's DB", positive, figure},
		[]string{"subscriber", positive, figure},
		append([]string{"feed, pure copy, wait"}, fresh...),
		append([]string{"feed, poll every 1 s"}, fresh...),
		append([]string{"logical replication"}, fresh...),
		[]string{`psql \\copy`, "5,000", positive, `1.00 \(1.00-1.00\)`, ratio, none},
		[]string{"logical replication, initial sync", "5,000", positive, ratio, ratio, none},
		[]string{"feed, pure copy, from a source just started", "5,000", positive, ratio, ratio, positive},
		[]string{"feed, one applier, .*", "5,000", positive, ratio, ratio, positive})
	if bars < 2*3+5 { // a CPU time of 0 has no bar
		t.Errorf("the picture has %d bars", bars)
	}
	t.Run("against RabbitMQ", func(t *testing.T) {
		if strings.Contains(out, noRabbit) {
			t.Skip(noRabbit)
		}
		wantRows(t, out,
			append([]string{"RabbitMQ push"}, fresh...),
			[]string{"RabbitMQ, tuned batches", "1,250", positive, ratio, ratio, none},
			[]string{"RabbitMQ, one by one", "100", positive, ratio, ratio, none})
	})
	t.Run("behind nginx", func(t *testing.T) {
		if strings.Contains(out, noNginx) {
			t.Skip(noNginx)
		}
		wantRows(t, out, []string{"feed, pure copy, from nginx, which has it", "5,000", positive, ratio, ratio, positive})
	})
}

func TestPublish(t *testing.T) {
	t.Parallel()
	out, bars := quick(t, "publish")
	for _, clients := range clientCounts {
		wantRows(t, out, []string{fmt.Sprint(clients), positive, positive, positive, ratio, ratio, positive})
	}
	wantRows(t, out,
		[]string{"wait", "20", positive, positive, positive},
		[]string{"staged", positive, "0", "0", "0"},
		[]string{"commit", positive, "0", "0", "0"},
		[]string{`insert \.\.\. select`, "5,000", positive, positive, "1.00"},
		[]string{"feed_backfill", "5,000", positive, positive, positive},
		[]string{"append", positive, positive, positive},
		[]string{"look at the head", positive, positive, positive})
	if !strings.Contains(out, "wait for each other's commit") {
		t.Errorf("the rates of commit have no reason in\n%s", out)
	}
	if bars < 3*3+2+2+2*2 {
		t.Errorf("the picture has %d bars", bars)
	}
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	out, bars := quick(t, "growth")
	times := slices.Repeat([]string{positive}, 8)
	for _, entries := range []string{"1,000", "2,000"} {
		for _, versions := range []string{"1", "20"} {
			wantRows(t, out, slices.Concat([]string{entries, versions}, times, []string{figure, positive}))
		}
	}
	for _, request := range []string{"append", "304", "cold page, start", "cold page, middle", "cold page, end", "newest page", "one entity", "start"} {
		wantRows(t, out, []string{request, "1", ratio, ratio}, []string{request, "20", ratio, ratio})
	}
	for _, way := range []string{byReplay, bySnapshot} {
		wantRows(t, out, []string{"2,000", "1", way, positive, positive, figure, figure}, []string{"2,000", "20", way, positive, positive, figure, figure},
			[]string{"100", "1", way, positive, positive, figure, figure})
	}
	if !regexp.MustCompile(`by snapshot, 100 entities of 20 versions : as many of one: ` + ratio).MatchString(out) {
		t.Errorf("no ratio of newcomers in\n%s", out)
	}
	pages := 0
	for _, l := range listers {
		for _, p := range l.pages {
			wantRows(t, out, []string{l.kind, regexp.QuoteMeta(p.name), positive, positive, ratio, ratio})
		}
		pages++
	}
	if bars < 8*2+3*2+pages*2 {
		t.Errorf("the picture has %d bars", bars)
	}
	t.Run("compaction", func(t *testing.T) {
		if strings.Contains(out, noCompaction) {
			t.Skip(noCompaction)
		}
		wantRows(t, out, []string{"1,900", positive, positive, positive, positive})
	})
}

func TestScale(t *testing.T) {
	t.Parallel()
	out, bars := quick(t, "scale")
	wantRows(t, out,
		[]string{directly, positive, positive, positive, `1.00 \(1.00-1.00\)`},
		[]string{directly, "200", "200", positive, `1.00 \(1.00-1.00\)`, ratio},
		[]string{"0", positive, `1.00 \(1.00-1.00\)`, positive, `1.00 \(1.00-1.00\)`},
		[]string{"1", positive, ratio, figure, ratio},
		[]string{"2", positive, ratio, figure, ratio})
	if bars < 2 {
		t.Errorf("the picture has %d bars", bars)
	}
	for _, kind := range []cache.Kind{cache.Nginx, cache.Varnish} {
		t.Run("behind "+string(kind), func(t *testing.T) {
			if strings.Contains(out, noCache(kind)) {
				t.Skip(noCache(kind))
			}
			behind := "behind " + string(kind)
			wantRows(t, out,
				[]string{behind, positive, figure, figure, ratio},
				[]string{behind, `\d\.00`, `\d\.00`, figure, ratio, ratio},
				[]string{behind, "9", "9", `1\.00`, positive})
		})
	}
}

// What fills a feed makes the digests that PROTOCOL.md describes, and versions that go on without a gap.
func TestFillFeed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, sql.Migrations("publish"))
	f := &grown{size: size{60, manyVersions}, db: &postgres.DB{Pool: db}}
	if err := f.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Query(t.Context(), `select entity_id, version, updated, salt, payload, digest from feed_entry order by position`)
	if err != nil {
		t.Fatal(err)
	}
	running, versions := sha256.Sum256([]byte(order.Feed)), map[uuid.UUID]int64{}
	var id uuid.UUID
	var version int64
	var updated time.Time
	var salt, payload, digest []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &version, &updated, &salt, &payload, &digest}, func() error {
		b := append(append(running[:], 'p'), id[:]...)
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(version)), uint64(updated.UnixMicro()))
		hash := sha256.Sum256(append(salt, payload...))
		running = sha256.Sum256(append(b, hash[:]...))
		var o order.Order
		if err := json.Unmarshal(payload, &o); err != nil {
			return err
		}
		if versions[id]++; !bytes.Equal(running[:], digest) || versions[id] != version || o.ID != id || o.Version != version || !o.UpdatedAt.Equal(updated) {
			return fmt.Errorf("%s %d has the digest %x, want %x; the entity is %s", id, version, digest, running, payload)
		}
		return nil
	})
	if err != nil || len(versions) != 3 {
		t.Errorf("%d entities, %v", len(versions), err)
	}
}

// A bench that is stopped in the middle leaves no process, and no data unless it is killed.
func TestStopped(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a benchmark")
	for _, test := range []struct {
		command, part, process string // that runs when the bench is stopped
		brokered               bool
		signal                 syscall.Signal
	}{
		{"feed", "reads", feedKind, false, syscall.SIGINT},
		{"subscribe", "freshness", shop.PureCopy, true, syscall.SIGINT},
		{"publish", "freshness", serveKind, false, syscall.SIGINT},
		{"growth", "services", salesKind, false, syscall.SIGINT},
		{"architectures", "feed", shop.FeedConsumer, false, syscall.SIGINT},
		{"architectures", "queues", shop.QueueConsumer, true, syscall.SIGKILL},
	} {
		t.Run(test.part+" by "+test.signal.String(), func(t *testing.T) {
			t.Parallel()
			if _, err := rabbitmq.Find(); err != nil && test.brokered {
				t.Skip(err)
			}
			dir := pgtest.Dir(t)
			var said strings.Builder
			cmd := exec.Command(os.Args[0], test.command, "--only", test.part)
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			until(t, func() error {
				select {
				case err := <-ended:
					t.Fatalf("the bench ended: %v\n%s", err, said.String())
				default:
				}
				if found := strings.Join(processes(t, dir), "\n"); !strings.Contains(found, serveArg+" "+test.process+" ") {
					return fmt.Errorf("there is no process %s in\n%s", test.process, found)
				}
				return nil
			})
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil && test.signal != syscall.SIGKILL {
				t.Errorf("%v\n%s", err, said.String())
			}
			until(t, func() error {
				if left := processes(t, dir); len(left) > 0 {
					return fmt.Errorf("still running: %v", left)
				}
				return nil
			})
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 && test.signal != syscall.SIGKILL {
				t.Errorf("left in the folder: %v, %v", left, err)
			}
		})
	}
}

// processes are the command lines that name the folder, be it in a URL.
func processes(t *testing.T, dir string) (found []string) {
	t.Helper()
	out, err := exec.Command("ps", "-axww", "-o", "command=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, filepath.Base(dir)) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func until(t *testing.T, condition func() error) {
	t.Helper()
	// A broker may be slow to start, and each look runs ps.
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]options{
		"feed --only reads --quick --markdown --out x.svg": {what: "feed", only: "reads", quick: true, markdown: true,
			out: "x.svg"},
		"subscribe --entries 1000":    {what: "subscribe", entries: 1000},
		"publish --only backfill":     {what: "publish", only: "backfill"},
		"growth --entries 10000000":   {what: "growth", entries: 10_000_000},
		"architectures --orders=2000": {what: "architectures", orders: 2000},
	} {
		if o, err := parseFlags(strings.Fields(args), io.Discard); err != nil || o != want {
			t.Errorf("%s: %+v, %v", args, o, err)
		}
	}
	for args, text := range map[string]string{
		"":                          "takes feed, subscribe, publish, growth, scale or architectures",
		"orders":                    "takes feed, subscribe, publish, growth, scale or architectures",
		"feed more":                 "takes feed, subscribe, publish, growth, scale or architectures",
		"feed --only catchup":       "writes, reads, wait, overload",
		"feed --entries 5000":       "-entries",
		"feed --out x.png":          "file.svg",
		"feed --out nowhere/x.svg":  "exists",
		"feed --loud":               "-loud",
		"subscribe --only writes":   "idle, freshness, catchup",
		"subscribe --entries 0":     "from 1,000 to",
		"subscribe --entries 999":   "from 1,000 to",
		"subscribe --entries 1e6":   "from 1,000 to",
		"growth --entries 19999":    "at least 20,000",
		"architectures --only wait": "calls, queues, stream, feed, relay",
		"architectures --orders 19": "from 20 to",
		"feed --orders 100":         "-orders",
		"subscribe freshness":       "takes feed, subscribe, publish, growth, scale or architectures",
	} {
		_, err := parseFlags(strings.Fields(args), io.Discard)
		if !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
