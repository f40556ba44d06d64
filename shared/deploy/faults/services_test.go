// Package faults_test runs all services, in one process, on databases that fail them.
package faults_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/sales-feed/customers"
	"github.com/edison-cars/data-feeds/sales-feed/sales"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/subscribers/assembly"
	"github.com/edison-cars/data-feeds/subscribers/billing"
	"github.com/edison-cars/data-feeds/subscribers/dashboard"
	"github.com/edison-cars/data-feeds/subscribers/mailer"
	"github.com/edison-cars/data-feeds/subscribers/relay"
	"github.com/edison-cars/data-feeds/subscribers/shipping"
	"github.com/edison-cars/data-feeds/subscribers/warehouse"
)

const patience = time.Minute

func TestMain(m *testing.M) { pgtest.Main(m) }

func eventually(t *testing.T, condition func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", patience, err)
		}
	}
}

// output is what a service prints, readable while it does.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Services run in the test's own process, each on a database of its name.
type inProcess struct {
	database func(name string) (url string)
	urls     map[string]string // of the services
	logs     map[string]*output
}

func newInProcess(database func(name string) (url string)) *inProcess {
	return &inProcess{database, map[string]string{}, map[string]*output{}}
}

var listens = regexp.MustCompile(`msg=listening url=(\S+)`)

// start runs a service until the test ends or stop is called, and waits until it is ready.
func (p *inProcess) start(t *testing.T, name string) (stop func()) {
	t.Helper()
	env := map[string]string{"ADDR": "127.0.0.1:0", "ACCESS": "open", "CLOCK_SPEED": "10000", "PICKUP": "1s", "DATA_DIR": filepath.Dir(t.TempDir()), "DATABASE_URL": p.database(name)}
	for feed, source := range map[string]string{"ORDERS": "sales", "CUSTOMERS": "customers", "BUILDS": "assembly", "SHIPMENTS": "shipping"} {
		if name != "relay" || feed == "ORDERS" {
			env["FEED_URL_"+feed] = cmp.Or(p.urls[source], "http://127.0.0.1:1") + "/feeds/" + strings.ToLower(feed) // nobody is there
			env["POLL_"+feed] = "@every 1s"
		}
	}
	run := map[string]func(context.Context, io.Writer) error{
		"sales": func(ctx context.Context, out io.Writer) error {
			var set sales.Settings
			if err := daemon.Parse(env, &set); err != nil {
				return err
			}
			return sales.Run(ctx, set, out)
		},
		"customers": func(ctx context.Context, out io.Writer) error {
			var set customers.Settings
			if err := daemon.Parse(env, &set); err != nil {
				return err
			}
			return customers.Run(ctx, set, out)
		},
	}[name]
	if run == nil {
		service := map[string]*subscriber.Service{
			"warehouse": warehouse.Service(), "assembly": assembly.Service(), "dashboard": dashboard.Service, "billing": billing.Service,
			"shipping": shipping.Service(), "mailer": mailer.Service(), "relay": relay.Service(),
		}[name]
		run = func(ctx context.Context, out io.Writer) error { return service.Run(ctx, env, out) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	out, ended := new(output), make(chan error, 1)
	p.logs[name] = out
	go func() { ended <- run(ctx, out) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s ended with %v", name, err)
		}
	})
	t.Cleanup(stop)
	eventually(t, func() error {
		found := listens.FindStringSubmatch(out.String())
		if found == nil {
			return fmt.Errorf("%s does not listen:\n%s", name, out)
		}
		p.urls[name] = found[1]
		return ready(name, found[1])
	})
	return stop
}

func ready(name, url string) error {
	status, _, text, err := ask(http.MethodGet, url+"/readyz", "", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s is not ready: %d %s", name, status, text)
	}
	return err
}

// client waits longer than the promised 10 s, since the machine may be busy.
var client = &http.Client{
	Timeout:       25 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ask sends a request; a form, if it is not nil, as its body.
func ask(method, address, accept string, form url.Values) (status int, header http.Header, text string, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, "", err
	}
	req.Header.Set("Accept", accept)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(body), err
}

// all are the services, each source before its readers.
var all = []string{"sales", "customers", "assembly", "shipping", "warehouse", "dashboard", "billing", "mailer", "relay"}

var (
	routed  = regexp.MustCompile(`(?:webserver\.GET\(r(?:\.\w+)?, |s\.(?:Page|JSON|CSV)\()"([^"]+)"`)
	publish = map[string]string{"sales": "orders", "customers": "customers", "assembly": "builds", "shipping": "shipments"}
)

// routes are the paths that a service answers GET at, as its source has them.
func routes(t *testing.T, name string) (paths []string) {
	t.Helper()
	folder := "../../../subscribers/" + name
	if name == "sales" || name == "customers" {
		folder = "../../../sales-feed/" + name
	} else {
		feed := "orders"
		at := "/subscriptions/" + feed
		paths = append(paths, "/subscriptions", at, at+"/polls", at+"/schedule", at+"/schedule?schedule=@hourly", at+"/rejected")
	}
	if feed := publish[name]; feed != "" {
		at := "/feeds/" + feed
		paths = append(paths, "/feeds", at, at+".atom", at+".json", at+".html", at+"?after=0&limit=7", at+"?after=0&limit=9",
			at+"/newer", at+"/00000000-0000-4000-8000-000000000001")
	}
	files, err := filepath.Glob(folder + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range routed.FindAllStringSubmatch(string(text), -1) {
			found++
			path := match[1]
			for name, value := range map[string]string{
				":part": "battery", ":number": "1", ":order_id": "00000000-0000-4000-8000-000000000001", ":id": "00000000-0000-4000-8000-000000000001",
			} {
				path = strings.ReplaceAll(path, name, value)
			}
			paths = append(paths, path)
		}
	}
	if found == 0 {
		t.Fatalf("no routes in %s", folder)
	}
	return paths
}
