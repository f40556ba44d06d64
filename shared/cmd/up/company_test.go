package main

import (
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
	"github.com/edison-cars/data-feeds/shared/dev/topology"
	"github.com/edison-cars/data-feeds/shared/web"
)

// walk is the life of one company, step by step.
type walk struct {
	*bench
	up       *process
	byHand   *process // sales
	ledger   *ledger
	shoppers func() string     // ends them, and gives what they said
	firstKey string            // an Idempotency-Key, and what was bought under it
	stale    map[string]status // of warehouse and dashboard, without sales
	copy     copies            // the same
	entries  []entry           // the feed
}

func TestCompany(t *testing.T) {
	t.Parallel()
	w := &walk{bench: newBench(t), ledger: newLedger(buyers)}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"orders reach every copy", w.orders},
		{"a database that stands still is seen on the map", w.freeze},
		{"the copies stay when sales and its server are killed", w.killSales},
		{"sales that starts again has lost and doubled nothing", w.startSales},
		{"a second up is refused", w.secondUp},
		{"Ctrl-C stops all that up has started", w.interrupt},
		{"--fresh is refused while a service runs", w.freshBesideService},
		{"the next start goes on where the last ended", w.nextStart},
		{"with --stream, orders reach a queue", w.stream},
		{"nothing outlives an up that is killed", w.killUp},
		{"--fresh starts over, and nothing outlives a go run that is killed", w.fresh},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

func (w *walk) orders(t *testing.T) {
	w.settle(t)
	w.up = w.goRunUp(t)
	w.up.says(t, "everything is up")
	w.allRun(t)
	w.firstKey = uuid.NewString()
	first := w.buy(t, w.firstKey, "volta", "heat_pump", "long_range")
	second := w.buy(t, uuid.NewString(), "ohm", "third_row", "all_wheel_drive")
	w.buy(t, uuid.NewString(), "joule")
	w.cancel(t, w.buy(t, uuid.NewString(), "ampere", "glass_roof").ID)
	if again := w.buy(t, w.firstKey, "volta", "heat_pump", "long_range"); again.ID != first.ID {
		t.Errorf("the same purchase made the orders %s and %s", first.ID, again.ID)
	}
	if entries := w.copied(t); len(entries) != 5 {
		t.Errorf("%d entries after four orders and a cancellation", len(entries))
	}
	w.cancel(t, second.ID) // which the copies have as placed
	w.ledger.check(t, w.copied(t))
}

func (w *walk) freeze(t *testing.T) {
	w.signalServer(t, "warehouse", syscall.SIGSTOP)
	w.onMap(t, "warehouse", topology.NotReady)
	w.onMap(t, sales, topology.Up)
	w.onMap(t, "dashboard", topology.Up)
	w.signalServer(t, "warehouse", syscall.SIGCONT)
	w.onMap(t, "warehouse", topology.Up)
	w.ledger.check(t, w.copied(t))
}

func (w *walk) killSales(t *testing.T) {
	// Sales is killed in the middle of purchases, of which some are under way.
	ctx, cancel := context.WithCancel(context.Background())
	done, talk := make(chan struct{}), new(strings.Builder)
	shoppers := newShoppers(w.url(sales), "", t.TempDir(), 6000, newConsole(talk, nil))
	shoppers.http.Transport = w.ledger
	go func() {
		shoppers.run(ctx)
		close(done)
	}()
	w.shoppers = func() string { cancel(); <-done; return talk.String() }
	w.all.Cleanup(func() { w.shoppers() })
	w.shopped(t, 30)
	for _, pid := range []int{w.pid(t, sales, "data", "postmaster.pid"), w.pid(t, sales, "lock")} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}

	w.up.says(t, "sales has died: signal: killed. The others go on.")
	services := map[string]string{"warehouse": "/api/parts", "dashboard": "/api/stats"}
	frozen := map[string]status{}
	for service, api := range services {
		eventually(t, func() error {
			for _, path := range []string{"/", api, "/readyz"} { // at any time
				if _, _, err := get(w.url(service)+path, "*/*"); err != nil {
					t.Fatal(err)
				}
			}
			now, err := w.status(service)
			if err != nil {
				t.Fatal(err)
			}
			before, failed := frozen[service]
			if !failed && now.LastError != "" {
				frozen[service] = now
			}
			if failed && (now.AsOf != before.AsOf || now.Cursor != before.Cursor) {
				t.Fatalf("without sales the copy of %s went from %v to %v", service, before, now)
			}
			if now.State != "stale" || now.LastError == "" {
				return fmt.Errorf("%s says %+v", service, now)
			}
			return nil
		})
		asOf := frozen[service].AsOf
		header, _, err := get(w.url(service)+api, "application/json")
		if got, want := header.Values("Datafeed-Copy"), `orders; state=stale; as_of="`+asOf.UTC().Format(web.TimeFormat)+`"; failing_since="`; err != nil ||
			!slices.ContainsFunc(got, func(copy string) bool { return strings.HasPrefix(copy, want) }) {
			t.Errorf("%s answers with Datafeed-Copy: %s, %v; want %s", service, got, err, want)
		}
		for _, path := range []string{"/", "/subscriptions"} {
			_, body, err := get(w.url(service)+path, "text/html")
			banner := `<p class="banner stale"><strong role="status">orders: stale, polls fail since <time `
			if err != nil || !strings.Contains(string(body), banner) || !strings.Contains(string(body), `.</strong> This is the copy as of <time datetime="`+asOf.UTC().Format(web.TimeFormat)) {
				t.Errorf("%s%s has no banner that says stale and %v: %v\n%s", service, path, asOf, err, body)
			}
		}
	}
	w.stale = frozen
	w.onMap(t, sales, topology.Down)
	for service := range services {
		w.onMap(t, service, topology.Up)
	}
	var err error
	if w.copy, err = w.copies(t); err != nil {
		t.Error(err)
	}
	if !w.up.running() {
		t.Error("up has ended with sales")
	}
}

func (w *walk) startSales(t *testing.T) {
	w.byHand = w.startAsTold(t, w.up, sales)
	w.up.says(t, "sales is back: "+w.url(sales))
	w.onMap(t, sales, topology.Up)
	w.buy(t, w.firstKey, "volta", "heat_pump", "long_range") // the ledger knows the first answer
	w.buy(t, uuid.NewString(), "joule", "tow_bar")
	w.shopped(t, 30)
	talk := w.shoppers()
	for _, says := range []string{"sales does not answer, the shoppers wait: ", "sales is back, the shoppers go on"} {
		if strings.Count(talk, says) != 1 {
			t.Errorf("the shoppers do not say once %q:\n%s", says, talk)
		}
	}

	w.entries = w.copied(t)
	if w.ledger.check(t, w.entries) < 2 {
		t.Error("no purchase of the shoppers was sent again")
	}
	for service, before := range w.stale {
		if now, err := w.status(service); err != nil || now.State != "fresh" || now.LastError != "" || !now.AsOf.After(before.AsOf) {
			t.Errorf("%s says %+v, %v", service, now, err)
		}
	}
	// What the copies were without sales was what the feed had been up to their cursors.
	if got, want := w.copy.Reserved, expect(w.upTo(t, "warehouse")).Reserved; !reflect.DeepEqual(got, want) {
		t.Errorf("the warehouse had reserved %v at %s, the feed says %v", got, w.stale["warehouse"].Cursor, want)
	}
	if got, want := w.copy.Stats, expect(w.upTo(t, "dashboard")).Stats; got != want {
		t.Errorf("the dashboard said %v at %s, the feed says %v", got, w.stale["dashboard"].Cursor, want)
	}
}

// upTo is the part of the feed that a service had copied.
func (w *walk) upTo(t *testing.T, service string) []entry {
	t.Helper()
	position, _, _ := strings.Cut(w.stale[service].Cursor, "-")
	n, err := strconv.Atoi(position)
	if err != nil || n < 1 || n > len(w.entries) {
		t.Fatalf("%s was at cursor %s of %d entries", service, w.stale[service].Cursor, len(w.entries))
	}
	return w.entries[:n]
}

func (w *walk) secondUp(t *testing.T) {
	second := w.startUp(t, "--fresh")
	if code := second.ends(t); code != 1 {
		t.Errorf("exit code %d", code)
	}
	second.says(t, fmt.Sprintf("%s is in use by process %d", w.dir, w.pid(t, "up.lock")))
	w.same(t)
}

// same checks that the feed is what it was.
func (w *walk) same(t *testing.T) {
	t.Helper()
	if now := w.replay(t); !reflect.DeepEqual(now, w.entries) {
		t.Errorf("the feed had %d entries, now it has %d or others", len(w.entries), len(now))
	}
}

// interrupt is Ctrl-C as in a terminal, where it reaches `go run` and up.
func (w *walk) interrupt(t *testing.T) {
	started := map[int]bool{}
	for _, s := range w.withDatabase() {
		started[w.pid(t, s.name, "lock")] = s.name != sales
	}
	for _, pid := range []int{w.pid(t, "up.lock"), w.up.Process.Pid} {
		if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	w.up.ends(t) // the exit code is that of `go run`: 1, whatever up's is
	if text := w.up.text(t); !regexp.MustCompile(`(?s)up +\| stopping\n.*up +\| everything has stopped\n$`).MatchString(text) || strings.Contains(text, "had to be killed") {
		t.Errorf("up did not stop in good order:\n%s", text)
	}
	w.up.says(t, "sales was started by hand and is left running")
	for pid, command := range processes(t, w.dir) {
		if started[pid] || strings.HasSuffix(command, "/"+sink) || strings.Contains(command, "/data") && !strings.Contains(command, "/"+sales+"/data") {
			t.Errorf("process %d still runs: %s", pid, command)
		}
	}
	w.same(t)
}

func (w *walk) freshBesideService(t *testing.T) {
	here := w.offset
	w.offset = freeOffset(t) // on the old ports sales would be found first
	second := w.startUp(t, "--fresh")
	w.offset = here
	if code := second.ends(t); code != 1 {
		t.Errorf("exit code %d", code)
	}
	second.says(t, fmt.Sprintf("is in use by process %d: stop sales first", w.pid(t, sales, "lock")))
	w.same(t)

	if err := syscall.Kill(w.pid(t, sales, "lock"), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := w.byHand.ends(t); code != 0 {
		t.Errorf("sales: exit code %d", code)
	}
	w.nothingRuns(t)
	w.shutDown(t)
}

func (w *walk) nextStart(t *testing.T) {
	args := []string{"--orders-per-minute", "300"}
	if _, err := rabbitmq.Find(); err == nil {
		args = append(args, "--stream")
	}
	w.up = w.startUp(t, args...)
	w.up.says(t, "everything is up")
	w.allRun(t)
	w.up.says(t, "shoppers  | buying about 300 times a minute")
	eventually(t, func() error {
		now := w.replay(t)
		if len(now) < len(w.entries) || !reflect.DeepEqual(now[:len(w.entries)], w.entries) {
			t.Fatalf("the feed of the last start had %d entries, which are not those that this one begins with", len(w.entries))
		}
		if len(now) < len(w.entries)+20 {
			return fmt.Errorf("the shoppers have bought %d times", len(now)-len(w.entries))
		}
		var invoices []any // for those who have signed up
		err := getJSON(w.url("billing")+"/api/invoices", &invoices)
		if err == nil && len(invoices) < 10 {
			err = fmt.Errorf("%d of them were invoiced", len(invoices))
		}
		return err
	})
}

func (w *walk) stream(t *testing.T) {
	if _, err := rabbitmq.Find(); err != nil {
		t.Skip(err)
	}
	all := listServices(0)
	b := *w.bench
	b.services = withStream(all, true, "")
	listen(t, &b, w.up)
}

func (w *walk) killUp(t *testing.T) {
	if err := w.up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.nothingRuns(t)
	eventually(t, func() error {
		if left := withEnvironment(t, w.dir); len(left) > 0 {
			return fmt.Errorf("still running: %q", left)
		}
		return nil
	})
}

func (w *walk) fresh(t *testing.T) {
	up := w.goRunUp(t, "--fresh")
	up.says(t, "everything is up")
	w.allRun(t)
	if entries := w.replay(t); len(entries) > 0 {
		t.Errorf("the feed has %d entries", len(entries))
	}
	if now, err := w.copies(t); err != nil || !reflect.DeepEqual(now, expect(nil)) {
		t.Errorf("the copies are %v, %v", now, err)
	}
	w.noStream(t, up)
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.nothingRuns(t)
}
