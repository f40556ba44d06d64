package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

var long = flag.Duration("long", 20*time.Second, "how long TestStorm breaks things")

// A storm is a company in which everything breaks, again and again, while shoppers buy and cancel.
type storm struct {
	*bench
	*ledger
	proxy   *proxy // between sales and its subscribers
	nodes   map[string]*node
	broker  *rabbitmq.Server // nil means there is none on this machine
	standby *pgtest.Server   // of sales, synchronous
	stopped func()           // ends the shoppers, if there are any
	faults  []string         // kinds that are to come before one comes again
}

// A node is a service that the storm kills and starts again, with a private PostgreSQL unless it has a server.
type node struct {
	*process
	service, dir, addr string
	env                []string
	server             *pgtest.Server // may be nil
}

// Whatever breaks, each copy becomes what the source is, row by row, and no purchase that was answered is lost or there
// twice. After a restore of sales, copies that know all that was lost read the end of the feed again, and one that does not
// reads the whole feed.
func TestStorm(t *testing.T) {
	t.Parallel()
	s := &storm{bench: newBench(t), ledger: newLedger(http.DefaultTransport), stopped: func() {}}
	t.Cleanup(func() { s.stopped() })
	s.proxy = newProxy(t, s.addr(8099), s.addr(8080))
	primary, standby := pgtest.Replicated(t)
	s.standby = standby
	s.nodes = map[string]*node{
		sales:       {service: sales, addr: s.addr(8080), env: []string{"ACCESS_LOG=false"}, server: primary},
		"warehouse": {service: "warehouse", addr: s.addr(8090), env: []string{"PAGE_SIZE=20", "POLL_ORDERS=@every 1s", "LEAD_SPEED=200000"}},
		"dashboard": {service: "dashboard", addr: s.addr(8092), env: []string{"PAGE_SIZE=100", "POLL_ORDERS=@every 1s", "POLL_WAIT=5s"}},
	}
	s.withStream(t)
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		s.begin(t, name)
	}
	s.hears(t)
	defer s.compact(t)()
	var witness witness
	defer witness.watch(s.subscribers())()
	s.shop(t)
	s.rage(t, *long/3)

	s.stopped()
	restore := s.backUp(t)
	purchases, answered, cancelled := s.saved()
	s.shop(t)
	s.nodes["newcomer"] = &node{service: "dashboard", addr: s.addr(8094), env: []string{"PAGE_SIZE=7", "POLL_ORDERS=@every 1s"}}
	s.begin(t, "newcomer")
	defer witness.watch(map[string]string{"newcomer": s.nodes["newcomer"].addr})()
	s.rage(t, *long/3)

	// A copy that has seen nothing of what is about to be lost would prove nothing.
	s.shopped(t, 10)
	old := s.replay(t)
	lost := int64(len(old))
	eventually(t, func() error {
		for name, n := range s.nodes {
			if name == sales {
				continue
			}
			now, err := statusAt("http://" + n.addr)
			if err != nil {
				return err
			}
			position, _, _ := strings.Cut(now.Cursor, "-")
			if at, err := strconv.ParseInt(position, 10, 64); err != nil || at < lost {
				return fmt.Errorf("%s is at %s of %d: %+v", name, position, lost, now)
			}
		}
		return nil
	})
	// To the newcomer, it will be a loss of more than it knows.
	s.rows(t, s.nodes["newcomer"], `with forgotten as (delete from copied_page returning feed) select feed from forgotten`)
	s.stopped()
	restore()
	s.ledger.purchases, s.answered, s.cancelled = purchases, answered, cancelled
	s.shop(t)
	s.rage(t, *long/3)

	s.failOver(t)
	s.shopped(t, 10)
	s.calm(t)
	s.hears(t)
	s.stopped()
	entries := s.replay(t)
	if !slices.ContainsFunc(entries, func(e entry) bool { return e.Datafeed.Superseded }) {
		t.Error("nothing was compacted")
	}
	s.ledger.check(t, entries)
	s.wantCopies(t, entries)
	for name, n := range s.nodes {
		if name == sales {
			continue
		}
		eventually(t, func() error { // the relay may wait yet to try again
			if generation := s.rows(t, n, `select generation::text from subscription where feed = 'orders'`); !slices.Equal(generation, []string{"2"}) {
				return fmt.Errorf("%s is at generation %v, want the second, after one resync", name, generation)
			}
			return nil
		})
	}
	// A copy that has yet to confirm what it skipped as superseded when the end is lost reads the whole feed: see TestLostEnd.
	const lostEnd, whole = "has lost the last", "has another history"
	for name, want := range map[string][]string{"warehouse": {lostEnd, whole}, "dashboard": {lostEnd, whole}, "newcomer": {whole}} {
		reason := fmt.Sprint(s.rows(t, s.nodes[name], `select resynced_reason from subscription where feed = 'orders'`))
		if !slices.ContainsFunc(want, func(one string) bool { return strings.Contains(reason, one) }) {
			t.Errorf("%s has resynced since %s, want one of %q", name, reason, want)
		}
		t.Logf("%s: %s", name, reason)
	}
	witness.check(t, 1, old, s.ledger.at)
	witness.check(t, 2, entries, s.ledger.at)
}

// compact compacts the feed of sales each second, as far as the server is there, until the function that it returns is
// called.
func (s *storm) compact(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var compacting sync.WaitGroup
	servers := []string{s.nodes[sales].server.URL(sales), s.standby.URL(sales)}
	compacting.Go(func() {
		for ctx.Err() == nil {
			for _, url := range servers { // the one that is a standby, or is down, refuses
				if conn, err := pgx.Connect(ctx, url); err == nil {
					_, _ = conn.Exec(ctx, `call feed_compact('orders', '0')`)
					_ = conn.Close(context.Background())
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	return func() {
		cancel()
		compacting.Wait()
	}
}

// subscribers returns the addresses of the nodes that subscribe, by name.
func (s *storm) subscribers() map[string]string {
	addrs := map[string]string{}
	for name, n := range s.nodes {
		if name != sales {
			addrs[name] = n.addr
		}
	}
	return addrs
}

// backUp backs sales up. The function that it returns restores that state, under the running service or a stopped one.
func (s *storm) backUp(t *testing.T) (restore func()) {
	t.Helper()
	archive := s.dumpNode(t, sales)
	return func() {
		if rand.N(2) == 0 {
			t.Log("restore sales under the running service")
			s.restoreNode(t, sales, archive)
			return
		}
		t.Log("restore sales while it is stopped")
		s.kill(t, sales)
		s.restoreNode(t, sales, archive)
		s.begin(t, sales)
	}
}

// failOver kills the primary of sales and lets the standby take its place. What sales has answered, and what it has
// shown, is there.
func (s *storm) failOver(t *testing.T) {
	t.Helper()
	n := s.nodes[sales]
	n.server.Stop()
	s.standby.Promote()
	s.kill(t, sales)
	n.server = s.standby
	s.begin(t, sales)
}

// withStream adds a broker and a relay, and has the dashboard listen; where there is no RabbitMQ, it says so.
func (s *storm) withStream(t *testing.T) {
	t.Helper()
	if _, err := rabbitmq.Find(); err != nil {
		t.Logf("without an event stream: %v", err)
		return
	}
	s.startBroker(t)
	t.Cleanup(func() { s.broker.Kill() })
	s.nodes[relay] = &node{service: relay, addr: s.addr(8096), env: []string{"AMQP_URL=" + s.broker.URL, "POLL_ORDERS=@every 1s", "POLL_WAIT=5s"}}
	s.nodes[listens].env = []string{"STREAM_ORDERS=" + s.broker.URL, "POLL_ORDERS=@every 10s"}
}

func (s *storm) startBroker(t *testing.T) {
	t.Helper()
	b, err := rabbitmq.Start(context.Background(), rabbitmq.Config{Dir: filepath.Join(s.dir, broker), Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(5673+s.offset))})
	if err != nil {
		t.Fatal(err)
	}
	s.broker = b
}

// hears waits until the dashboard listens, and has heard something if anybody shops.
func (s *storm) hears(t *testing.T) {
	t.Helper()
	if s.broker == nil {
		return
	}
	eventually(t, func() error {
		now, err := statusAt("http://" + s.nodes[listens].addr)
		if err == nil && (now.Stream.State != "listening" || now.Stream.Messages == 0 && s.count() > 0) {
			err = fmt.Errorf("%s does not listen, or hears nothing: %+v", listens, *now.Stream)
		}
		return err
	})
	// RabbitMQ 3.10 keeps but half of a quorum queue that was made less than three seconds before it is killed.
	if _, err := s.broker.Ctl(t.Context(), "eval", "[dets:sync(T) || T <- dets:all()]."); err != nil {
		t.Fatal(err)
	}
}

func (s *storm) addr(port int) string {
	return net.JoinHostPort("localhost", strconv.Itoa(port+s.offset))
}

// begin starts a node and waits until it answers.
func (s *storm) begin(t *testing.T, name string) {
	t.Helper()
	n := s.nodes[name]
	if n.dir == "" {
		n.dir = filepath.Join(s.dir, name)
		s.settleNode(t, n)
	}
	database := ""
	if n.server != nil {
		database = n.server.URL(n.service)
	}
	cmd := exec.Command(filepath.Join(s.dir, "bin", "subscribers"), n.service)
	if n.service == sales {
		cmd = exec.Command(filepath.Join(s.dir, "bin", "sales-feed"))
	}
	n.process = s.start(t, cmd, append(n.env, "DATABASE_URL="+database, "ADDR="+n.addr, "ACCESS=open", "DATA_DIR="+n.dir, "PUBLIC_URL=http://"+n.addr,
		"FEED_URL_ORDERS=http://"+s.proxy.Addr().String()+"/feeds/orders",
		"FEED_URL_BUILDS=http://"+s.addr(8091)+"/feeds/builds", "FEED_URL_SHIPMENTS=http://"+s.addr(8091)+"/feeds/shipments", // nobody is there
		fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()))...)
	eventually(t, func() error {
		if !n.running() {
			t.Fatalf("%s has ended: %v\n%s", name, n.ProcessState, n.text(t))
		}
		_, _, err := get("http://"+n.addr+"/livez", "*/*")
		return err
	})
}

// settleNode puts an empty database into the folder of a node, if a company has one for its service.
func (s *storm) settleNode(t *testing.T, n *node) {
	t.Helper()
	s.needSettled(t)
	if err := os.Mkdir(n.dir, 0o755); err != nil { // for the user of private servers
		t.Fatal(err)
	}
	if from := filepath.Join(built.dir, n.service); n.server == nil && exists(filepath.Join(from, "data")) {
		copyFolder(t, from, n.dir)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kill kills a node and waits until its server is gone, too.
func (s *storm) kill(t *testing.T, name string) {
	t.Helper()
	n := s.nodes[name]
	if !n.running() {
		t.Fatalf("%s has ended by itself: %v\n%s", name, n.ProcessState, n.text(t))
	}
	if err := n.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-n.exited
	eventually(t, func() error { return none(processes(t, n.dir)) })
}

// shop sends shoppers.
func (s *storm) shop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	shoppers := newShoppers("http://"+s.addr(8080), "", t.TempDir(), 1200, newConsole(new(strings.Builder), nil))
	shoppers.http.Transport = s.ledger
	go func() {
		defer close(done)
		shoppers.run(ctx)
	}()
	s.stopped = func() {
		cancel()
		<-done
	}
}

// shopped waits until sales has answered n more purchases.
func (s *storm) shopped(t *testing.T, n int) {
	t.Helper()
	n += s.count()
	eventually(t, func() error {
		if now := s.count(); now < n {
			return fmt.Errorf("%d purchases were answered, %d are missing", now, n-now)
		}
		return nil
	})
}

// crash kills a process of a node's server, whose id a query gives: the node goes on without, until it is back.
func (s *storm) crash(t *testing.T, n *node, query string) {
	t.Helper()
	pid := 0
	eventually(t, func() error {
		conn, err := s.connect(t, n)
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		return conn.QueryRow(t.Context(), query).Scan(&pid)
	})
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

// connect opens a session at a node's own server.
func (s *storm) connect(t *testing.T, n *node) (*pgx.Conn, error) {
	if n.server != nil {
		return pgx.Connect(t.Context(), n.server.URL(n.service))
	}
	return connect(t, filepath.Join(n.dir, n.service), n.service)
}

// rows returns the rows of a query that gives text, in order.
func (s *storm) rows(t *testing.T, n *node, query string) (all []string) {
	t.Helper()
	eventually(t, func() error {
		conn, err := s.connect(t, n)
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		rows, err := conn.Query(t.Context(), query)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	slices.Sort(all)
	return all
}

// unbalanced selects the parts that are not what their purchases and movements say.
const unbalanced = `
	select part from part p
	 where on_order <> (select coalesce(sum(quantity), 0) from purchase where part = p.part and arrived_at is null)
	    or (on_hand, reserved, on_order) <> (select sum(on_hand), sum(reserved), sum(on_order) from movement where part = p.part)
	    or (select coalesce(sum(on_hand), 0) from movement where part = p.part and purchase is not null)
	       <> (select coalesce(sum(quantity), 0) from purchase where part = p.part and arrived_at is not null)`

const linesOfOrders = `
	select format('%s %s %s %s %s', id, n, line->>'model', line->>'quantity', line->>'unit_price_cents')
	  from orders cross join jsonb_array_elements(lines) with ordinality as l (line, n)`

// wantCopies waits until every copy is what the feed says, row by row; sales' own table is at once.
func (s *storm) wantCopies(t *testing.T, entries []entry) {
	t.Helper()
	newest := map[uuid.UUID]order.Order{}
	for _, e := range entries {
		newest[e.Datafeed.Entity.ID] = e.Datafeed.Entity
	}
	var orders, totals, lines, reservations []string
	for id, o := range newest {
		orders = append(orders, fmt.Sprintf("%s %d %s", id, o.Version, o.Status))
		totals = append(totals, fmt.Sprintf("%s %d %s %d", id, o.Version, o.Status, o.TotalCents))
		parts := map[string]int64{}
		for i, l := range o.Lines {
			lines = append(lines, fmt.Sprintf("%s %d %s %d %d", id, i+1, l.Model, l.Quantity, l.UnitPriceCents))
			for _, item := range append([]string{l.Model}, l.Options...) {
				for part, pieces := range billOfMaterials[item] {
					parts[part] += pieces * int64(l.Quantity)
				}
			}
		}
		for part, pieces := range parts {
			if o.Status == order.Placed {
				reservations = append(reservations, fmt.Sprintf("%s %s %d", id, part, pieces))
			}
		}
	}
	var reserved []string
	for part, pieces := range expect(entries).Reserved {
		reserved = append(reserved, fmt.Sprintf("%s %d", part, pieces))
	}
	for _, x := range []struct {
		name, query string
		want        []string
	}{
		{sales, `select format('%s %s %s', id, version, status) from orders`, orders},
		{"warehouse", `select format('%s %s %s', id, version, status) from orders`, orders},
		{"warehouse", `select format('%s %s %s', order_id, part, quantity) from reservation`, reservations},
		{"warehouse", `select format('%s %s', part, reserved) from part where reserved <> 0`, reserved},
		{"warehouse", unbalanced, nil},
		{"dashboard", `select format('%s %s %s %s', id, version, status, total_cents) from orders`, totals},
		{"dashboard", linesOfOrders, lines},
		{"newcomer", `select format('%s %s %s %s', id, version, status, total_cents) from orders`, totals},
		{"newcomer", linesOfOrders, lines},
	} {
		slices.Sort(x.want)
		eventually(t, func() error {
			if got := s.rows(t, s.nodes[x.name], x.query); !slices.Equal(got, x.want) {
				return fmt.Errorf("%s: %s gives %d rows, the feed %d, or they differ", x.name, x.query, len(got), len(x.want))
			}
			return nil
		})
	}
	t.Logf("%d entries of %d orders", len(entries), len(newest))
}
