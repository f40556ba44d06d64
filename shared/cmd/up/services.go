package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
	subscribers "github.com/edison-cars/data-feeds/subscribers/services"
)

type service struct {
	name string
	text string   // its purpose in one line
	args []string // arguments of `go run`: the package, then the program's
	addr string

	reads []string          // feeds
	paths map[string]string // of these feeds, or views of them, at their sources; /feeds/NAME where it is left out
}

func (s service) url() string {
	if s.name == broker {
		return "amqp://" + s.addr
	}
	return "http://" + s.addr
}

const (
	sales        = "sales"
	customersApp = "customers"
)

var sources = []struct{ feed, service string }{{"orders", sales}, {"customers", customersApp}, {"builds", "assembly"}, {"shipments", "shipping"}}

// links are the variables with which a service links to a page of another.
var links = []struct{ service, variable, to string }{{sales, "CUSTOMERS_URL", customersApp}, {customersApp, "STOREFRONT_URL", sales}}

// build compiles all services into dir/bin.
func build(ctx context.Context, root, dir string) error {
	// -buildvcs=false: a new commit alone needs no new link step, and git may be missing or refuse another user's
	// checkout.
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "bin")+"/", "./sales-feed", "./subscribers", "./"+sinkPackage, "./"+brokerPackage)
	cmd.Dir = root
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with its compilers
	if out, err := cmd.CombinedOutput(); ctx.Err() != nil {
		return ctx.Err()
	} else if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// The mail sink receives the mails of mailer and customers, unless SMTP_URL names a mail server.
const (
	sink        = "mailsink"
	sinkPackage = "shared/cmd/mailsink"
	sinkPort    = 1025 // of SMTP
)

// The event stream: the relay republishes feeds to the broker, unless AMQP_URL names another one, and one service
// listens.
const (
	relay         = "relay"
	broker        = "rabbitmq"
	brokerPackage = "shared/cmd/rabbitmq"
	listens       = "dashboard" // to the orders
)

// listServices lists all services: sales, customers, the subscribers, the mail sink, and the broker.
func listServices(portOffset int) []service {
	all := []service{
		{name: sales, text: "storefront and orders", args: []string{"./sales-feed"}, addr: "localhost:8080"},
		{name: customersApp, text: "accounts of customers", args: []string{"./sales-feed", "customers"}, addr: "localhost:8081"},
	}
	for _, s := range subscribers.All() {
		var reads []string
		paths := map[string]string{}
		for _, f := range s.Feeds {
			reads = append(reads, f.Name)
			_, path, _ := strings.Cut(f.URL, "/feeds/")
			paths[f.Name] = "/feeds/" + path
		}
		all = append(all, service{name: s.Name, text: s.Text, args: []string{"./subscribers", s.Name}, addr: s.Addr, reads: reads, paths: paths})
	}
	all = append(all,
		service{name: sink, text: "shows the mails that mailer and customers send", args: []string{"./" + sinkPackage}, addr: "localhost:8025"},
		service{name: broker, text: "takes the event stream that the relay sends", args: []string{"./" + brokerPackage}, addr: "localhost:5673"})
	for i, s := range all {
		_, port, _ := net.SplitHostPort(s.addr)
		n, _ := strconv.Atoi(port)
		all[i].addr = net.JoinHostPort("localhost", strconv.Itoa(n+portOffset))
	}
	return all
}

// withStream returns the services to run: without the stream's unless --stream is set, and without the broker if
// AMQP_URL is.
func withStream(all []service, stream bool, amqpURL string) []service {
	return slices.DeleteFunc(slices.Clone(all), func(s service) bool {
		return s.name == relay && !stream || s.name == broker && (!stream || amqpURL != "")
	})
}

// portsFree waits a moment for the ports of an up that was killed.
func portsFree(ctx context.Context, services []service) error {
	var taken []string
	for deadline := time.Now().Add(3 * time.Second); ; {
		taken = nil
		for _, s := range services {
			if err := free(ctx, s.addr); err != nil {
				taken = append(taken, fmt.Sprintf("%s cannot have %s: %v", s.name, s.addr, err))
			}
		}
		if len(taken) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s\nstop what runs there, or run on other ports: --port-offset %s --dir DIR", strings.Join(taken, "\n"), freeOffsetFor(ctx, services))
		}
		if !wait(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// freeOffsetFor returns a number to add to the services' ports that makes them free, or N.
func freeOffsetFor(ctx context.Context, services []service) string {
	for offset := 1000; offset <= 20_000; offset += 1000 {
		if !slices.ContainsFunc(services, func(s service) bool {
			host, port, _ := net.SplitHostPort(s.addr)
			n, err := strconv.Atoi(port)
			return err != nil || free(ctx, net.JoinHostPort(host, strconv.Itoa(n+offset))) != nil
		}) {
			return strconv.Itoa(offset)
		}
	}
	return "N"
}

func free(ctx context.Context, addr string) error {
	// A listener on all addresses, or on another one of localhost, may not prevent Listen.
	if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr); err == nil {
		conn.Close()
		return errors.New("something answers there already")
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			return errno
		}
		return err
	}
	return l.Close()
}

// lockDir creates and locks dir for this up.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return lock(filepath.Join(dir, "up.lock"), "stop that up, or run a second company beside it with --port-offset N --dir DIR")
}

// lock locks a file. advice says what to do while another process has the lock.
func lock(path, advice string) (unlock func(), err error) {
	f, err := daemon.Lock(path)
	if errors.Is(err, daemon.ErrInUse) {
		err = fmt.Errorf("%w: %s", err, advice)
	}
	return func() { f.Close() }, err
}

func deleteData(dir string, services []service) error {
	for _, s := range services {
		unlock, err := lock(filepath.Join(dir, s.name, "lock"), "stop "+s.name+" first") // its private PostgreSQL holds the lock
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
		unlock()
	}
	for _, s := range services {
		if err := postgres.Remove(postgres.Config{Name: s.name, Dir: dir}); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	for _, file := range []string{"buyer.key", shoppersFile, "customers.erased"} { // credentials for the deleted data, and its list of erased ids
		if err := os.Remove(filepath.Join(dir, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	return nil
}

func (c *company) settings(s service) []string {
	set := []string{"ADDR=" + s.addr}
	if s.name != broker {
		set = append(set, "ACCESS="+cmp.Or(c.env["ACCESS"], "open"))
	}
	if c.env["MAP_URL"] == "" && s.name != sink && s.name != broker {
		set = append(set, fmt.Sprintf("MAP_URL=http://localhost:%d", mapPort+c.portOffset))
	}
	if c.dataDir != "" && s.name != sink {
		set = append(set, "DATA_DIR="+c.dataDir)
	}
	smtp := net.JoinHostPort("localhost", strconv.Itoa(sinkPort+c.portOffset))
	switch {
	case s.name == sink:
		return append(set, "SMTP_ADDR="+smtp, "MAIL_DIR="+filepath.Join(c.dir, sink))
	case (s.name == "mailer" || s.name == customersApp) && c.env["SMTP_URL"] == "":
		set = append(set, "SMTP_URL=smtp://"+smtp)
		if s.name == "mailer" && c.env["MAIL_LIMIT"] == "" {
			set = append(set, "MAIL_LIMIT=0") // the mails are not delivered
		}
	case s.name == relay:
		if c.env["AMQP_URL"] == "" {
			set = append(set, "AMQP_URL="+c.url(broker))
		}
		if c.env["POLL_WAIT"] == "" {
			set = append(set, "POLL_WAIT=25s") // the relay serves consumers that want entries at once
		}
	case s.name == listens && c.url(broker) != "" && c.env["STREAM_ORDERS"] == "":
		set = append(set, "STREAM_ORDERS="+c.url(broker))
	}
	for _, source := range sources {
		if source.service == s.name {
			set = append(set, "PUBLIC_URL="+s.url())
		}
		if from := c.url(source.service); from != "" && slices.Contains(s.reads, source.feed) {
			set = append(set, fmt.Sprintf("FEED_URL_%s=%s%s", strings.ToUpper(source.feed), from, cmp.Or(s.paths[source.feed], "/feeds/"+source.feed)))
		}
	}
	for _, link := range links {
		if to := c.url(link.to); to != "" && link.service == s.name {
			set = append(set, link.variable+"="+to)
		}
	}
	return set
}

// environ returns the environment of a service: that of up, without the variables that differ per service, and with the
// settings. The access log is off by default.
func (c *company) environ(s service) []string {
	var list []string
	for k, v := range c.env {
		if !slices.Contains([]string{"DATABASE_URL", "DATABASE_READ_URL", "DATA_DIR", "PUBLIC_URL"}, k) {
			list = append(list, k+"="+v)
		}
	}
	if c.env["ACCESS_LOG"] == "" {
		list = append(list, "ACCESS_LOG=false") // polls would hide other lines
	}
	if s.name == listens && c.url(relay) != "" && c.env["STREAM_ORDERS"] == "" {
		list = append(list, "STREAM_ORDERS="+c.env["AMQP_URL"]) // contains a secret, unlike settings
	}
	list = append(list, c.settings(s)...) // later values take precedence
	return append(list, fmt.Sprint(daemon.StopWithParent, "=", os.Getpid()))
}

// tuning are inherited variables that a restart by hand needs, too. None is secret.
var tuning = []string{"LOG_LEVEL", "PAGE_SIZE", "PGBIN", "FEED_MAX_AGE", "COMPACT_AFTER", "ACCESS_LOG", "HOSTS", "TOKENS", "TOKENS_FILE", "CAPACITY", "CLOCK_SPEED", "PICKUP", "LEAD_SPEED"}

func (c *company) byHand(s service) string {
	set := c.settings(s)
	for _, k := range slices.Sorted(maps.Keys(c.env)) {
		if slices.Contains(tuning, k) || strings.HasPrefix(k, "POLL_") {
			set = append(set, k+"="+c.env[k])
		}
	}
	var words []string
	if wd, err := os.Getwd(); err != nil || wd != c.root {
		words = append(words, "cd", quote(c.root), "&&")
	}
	var unset []string
	for _, k := range []string{"DATABASE_URL", "DATABASE_READ_URL"} {
		if _, ok := c.env[k]; ok {
			unset = append(unset, "-u", k)
		}
	}
	if unset != nil {
		words = append(append(words, "env"), unset...)
	}
	for _, kv := range set {
		k, v, _ := strings.Cut(kv, "=")
		words = append(words, k+"="+quote(v))
	}
	if c.env["FEED_TOKEN"] != "" {
		words = append(words, `FEED_TOKEN="${FEED_TOKEN:?}"`) // a secret, to be set in the other terminal
	}
	words = append(words, "go", "run")
	return strings.Join(append(words, s.args...), " ")
}

func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,%+", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
