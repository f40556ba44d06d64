package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/edison-cars/data-feeds/shared/dev/topology"
	"github.com/edison-cars/data-feeds/shared/order"
)

// A listening is one company with an event stream, and a durable queue at the exchange of its orders.
type listening struct {
	*bench
	up     *process
	bought []uuid.UUID
	heard  map[uuid.UUID]int // of which order, how often
}

// listen listens to an up with --stream.
func listen(t *testing.T, b *bench, up *process) {
	l := &listening{bench: b, up: up, heard: map[uuid.UUID]int{}}
	l.orders(t)
	l.killBroker(t)
	found := withEnvironment(t, l.dir)
	for _, part := range []string{"/bin/" + broker, "beam", "epmd"} {
		if !slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, part) }) && runtime.GOOS == "linux" {
			t.Errorf("%s is not among %q", part, found)
		}
	}
}

func (l *listening) orders(t *testing.T) {
	t.Helper()
	l.onMap(t, relay, topology.Up)
	l.hears(t) // binds the queue: a later one hears nothing of what was before
	heard := func(enough func(*stream) bool) {
		t.Helper()
		eventually(t, func() error {
			now, err := l.status(listens)
			if err == nil && (now.Stream == nil || !enough(now.Stream)) {
				err = fmt.Errorf("%s: %+v", listens, now.Stream)
			}
			return err
		})
	}
	heard(func(s *stream) bool { return s.State == "listening" })
	l.buy(t)
	l.hears(t)
	if n := l.heard[l.bought[0]]; n != 1 {
		t.Errorf("the order was heard of %d times", n)
	}
	heard(func(s *stream) bool { return s.Messages > 0 })
}

// killBroker kills RabbitMQ, which comes back; nothing is lost.
func (l *listening) killBroker(t *testing.T) {
	t.Helper()
	l.storesQueue(t)
	killed := 0
	for pid, command := range processes(t, filepath.Join(l.dir, broker)) {
		if strings.Contains(command, "beam") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("%d processes are RabbitMQ", killed)
	}
	l.buy(t)
	l.up.says(t, "RabbitMQ ended, and is started again")
	l.hears(t)
}

// storesQueue waits until RabbitMQ has stored all of the dashboard's quorum queue. RabbitMQ 3.10 does so within three
// seconds; killed before, it keeps but half of a queue, to which it never confirms a message.
func (l *listening) storesQueue(t *testing.T) {
	t.Helper()
	for _, file := range []string{"names.dets", "meta.dets"} {
		eventually(t, func() error {
			found, err := filepath.Glob(filepath.Join(l.dir, broker, "data", "*", "quorum", "*", file))
			for _, path := range found {
				if text, _ := os.ReadFile(path); strings.Contains(string(text), listens+".orders") {
					return nil
				}
			}
			return errors.Join(err, fmt.Errorf("%q have nothing of the queue", found))
		})
	}
}

// noStream checks that up runs without an event stream, of which --fresh has left nothing.
func (b *bench) noStream(t *testing.T, up *process) {
	t.Helper()
	all := listServices(0)
	var shown []topology.State
	if err := getJSON(fmt.Sprintf("http://localhost:%d/api/services", mapPort+b.offset), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown) < 8 || slices.ContainsFunc(shown, func(s topology.State) bool { return s.Name == relay || s.Name == broker }) {
		t.Errorf("the map shows %+v", shown)
	}
	streaming := bench{offset: b.offset, services: withStream(all, true, "")}
	for _, name := range []string{relay, broker} {
		if err := free(t.Context(), strings.TrimPrefix(streaming.url(name), "http://")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		left, err := os.ReadDir(filepath.Join(b.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // there never was one
			t.Fatal(err)
		}
		for _, file := range left {
			if file.Name() != "lock" {
				t.Errorf("--fresh leaves %s/%s", name, file.Name())
			}
		}
	}
	if strings.Contains(up.text(t), relay) || strings.Contains(up.text(t), broker) {
		t.Errorf("up speaks of it:\n%s", up.text(t))
	}
}

// buy buys a car.
func (l *listening) buy(t *testing.T) {
	t.Helper()
	resp, err := client.Post(l.url(sales)+"/orders", "application/json",
		strings.NewReader(`{"lines": [{"model": "ohm", "quantity": 1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var o order.Order
	if err := json.NewDecoder(resp.Body).Decode(&o); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	l.bought = append(l.bought, o.ID)
}

// hears waits until the queue has brought all that was bought since it is there.
func (l *listening) hears(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		err := l.drain(t)
		for _, id := range l.bought {
			if l.heard[id] == 0 {
				err = errors.Join(err, fmt.Errorf("nothing was heard of the order %s", id))
			}
		}
		return err
	})
}

func (l *listening) drain(t *testing.T) error {
	conn, err := amqp.Dial("amqp://" + strings.TrimPrefix(l.url(broker), "http://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	q, err := ch.QueueDeclare("listener", true, false, false, false, nil)
	if err != nil {
		return err
	}
	if err := ch.QueueBind(q.Name, "", "orders", false, nil); err != nil { // the relay makes the exchange
		return err
	}
	for {
		m, got, err := ch.Get(q.Name, true)
		if err != nil || !got {
			return err
		}
		var body struct {
			ExternalID uuid.UUID `json:"external_id"`
			order.Order
		}
		if err := json.Unmarshal(m.Body, &body); err != nil || body.ExternalID != body.ID || body.Status == "" {
			t.Fatalf("%v: %s", err, m.Body)
		}
		l.heard[body.ExternalID]++
	}
}

// withEnvironment are the command lines, on Linux, of those whose environment names the folder: what RabbitMQ starts is
// not told by its command line.
func withEnvironment(t *testing.T, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range all {
		env, _ := os.ReadFile(filepath.Join(proc, "environ")) // it may end meanwhile
		command, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		if len(command) > 0 && strings.Contains(string(env), "="+dir) {
			found = append(found, strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return found
}

// Where RabbitMQ is missing, up says what to install, and starts nothing.
func TestStreamWithoutRabbitMQ(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "company")
	cmd := exec.Command(newBench(t).binary, "--stream", "--dir", dir)
	cmd.Env = []string{"PATH=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("it ends with %v", err)
	}
	if text := string(out); strings.Count(text, "\n") != 1 || !strings.Contains(text, "apt-get install rabbitmq-server") || !strings.Contains(text, "AMQP_URL") {
		t.Errorf("it says:\n%s", text)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it made its folder: %v", err)
	}
}

func TestStreamSettings(t *testing.T) {
	t.Parallel()
	all := []service{
		{name: sales, addr: "localhost:9080", args: []string{"./sales-feed"}},
		{name: relay, addr: "localhost:9096", args: []string{"./subscribers", relay}, reads: []string{"orders"}},
		{name: broker, addr: "localhost:6673", args: []string{"./" + brokerPackage}},
		{name: listens, addr: "localhost:9092", args: []string{"./subscribers", listens}, reads: []string{"orders"}},
	}
	names := func(services []service) (names string) {
		for _, s := range services {
			names += s.name + " "
		}
		return names
	}
	for _, test := range []struct {
		stream        bool
		url, services string
	}{
		{false, "", "sales dashboard "}, {false, "amqp://h", "sales dashboard "},
		{true, "", "sales relay rabbitmq dashboard "}, {true, "amqp://h", "sales relay dashboard "},
	} {
		if got := names(withStream(all, test.stream, test.url)); got != test.services {
			t.Errorf("--stream=%t with AMQP_URL=%s runs %s", test.stream, test.url, got)
		}
	}
	c := &company{root: "/r", dataDir: "/data", services: all}
	for i, want := range []string{
		`cd /r && ADDR=localhost:9096 ACCESS=open MAP_URL=http://localhost:8079 DATA_DIR=/data AMQP_URL=amqp://localhost:6673 POLL_WAIT=25s FEED_URL_ORDERS=http://localhost:9080/feeds/orders go run ./subscribers relay`,
		`cd /r && ADDR=localhost:6673 DATA_DIR=/data go run ./shared/cmd/rabbitmq`,
		`cd /r && ADDR=localhost:9092 ACCESS=open MAP_URL=http://localhost:8079 DATA_DIR=/data STREAM_ORDERS=amqp://localhost:6673 FEED_URL_ORDERS=http://localhost:9080/feeds/orders go run ./subscribers dashboard`,
	} {
		if got := c.byHand(all[i+1]); got != want {
			t.Errorf("\n%s\nwant\n%s", got, want)
		}
	}
	c.env = map[string]string{"AMQP_URL": "amqp://u:hunter2@h", "POLL_WAIT": "5s"}
	for _, set := range c.settings(all[1]) {
		if strings.HasPrefix(set, "AMQP_URL=") || strings.HasPrefix(set, "POLL_WAIT=") {
			t.Errorf("up sets %s, though the environment does", set)
		}
	}
}
