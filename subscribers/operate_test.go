package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// An operator runs commands in an environment.
type operator map[string]string

// run returns what a command prints, and fails unless it ends with the exit code.
func (o operator) run(t *testing.T, code int, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	err = run(t.Context(), args, o, &out)
	if got := daemon.ExitCode(err); got != code {
		t.Errorf("%q ends with %d, not %d: %v\n%s", args, got, code, err, &out)
	}
	return out.String(), err
}

func (o operator) do(t *testing.T, code int, args ...string) {
	t.Helper()
	_, _ = o.run(t, code, args...)
}

func (o operator) json(t *testing.T, code int, into any, args ...string) {
	t.Helper()
	out, _ := o.run(t, code, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%q prints %s: %v", args, out, err)
	}
}

// nowhere returns the URL of a port where nothing listens.
func nowhere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func placed(lines ...order.Line) order.Order {
	return order.Order{ID: uuid.New(), Version: 1, Status: order.Placed, Currency: "EUR", PlacedAt: feed.TimeOf(noon), UpdatedAt: feed.TimeOf(noon), Lines: lines}
}

// A source that can be taken down.
func breakable(t *testing.T, feedURL string) (at string, down *atomic.Bool) {
	t.Helper()
	u, err := url.Parse(feedURL)
	if err != nil {
		t.Fatal(err)
	}
	down = new(atomic.Bool)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: u.Scheme, Host: u.Host})
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + u.Path, down
}

// The commands show and change running services, as people and scripts need it.
func TestOperate(t *testing.T) {
	t.Parallel()
	line := order.Line{Model: "volta", Options: []string{}, Quantity: 1, UnitPriceCents: 1}
	good, bad := placed(line), placed(line)
	bad.Status = "lost" // breaks the contract
	source, down := breakable(t, ordersFeed(t, good, bad))
	pool := pgtest.New(t)
	warehouse := start(t, "warehouse", pool, map[string]string{
		"FEED_URL_ORDERS": source, "POLL_ORDERS": "@every 1h", "FEED_URL_BUILDS": serveFeed(t, carbuild.Feed), "POLL_BUILDS": "@every 1h",
	})
	publisher := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // as a source answers
		if r.URL.Path != "/readyz" {
			http.Error(w, "{}", http.StatusNotFound)
		}
	}))
	t.Cleanup(publisher.Close)
	o := operator{"SERVICES": "sales=" + publisher.URL + ",warehouse=" + warehouse + ",billing=" + nowhere(t)}
	alone := operator{"SERVICES": "warehouse=" + warehouse}

	alone.do(t, 0, "poll", "warehouse", "orders") // the bad entry is counted
	alone.do(t, 0, "poll", "warehouse", "builds")

	t.Run("status lists all services, trouble first", func(t *testing.T) {
		out, err := o.run(t, 3, "status")
		want := regexp.MustCompile(`^SERVICE     FEED     STATE   AGE   LAG   REJECTED   SCHEDULE    NEXT   MESSAGE
billing     -        down    -     -     -          -           -      dial tcp \S+ connect: connection refused
warehouse   orders   fresh   \d+s +0     1          @every 1h   \S+ *
sales       -        up      -     -     -          -           -      copies no feed
warehouse   builds   fresh   \d+s +0     0          @every 1h   \S+ *
$`)
		if !want.MatchString(out) || err.Error() != "2 of 4 rows need attention" {
			t.Errorf("%v\n%s", err, out)
		}
		var reports []struct {
			Service, URL, Status, Detail string
			Subscriptions                []struct {
				Feed  string
				State string
				Cost  map[string]float64
			}
		}
		o.json(t, 3, &reports, "status")
		if len(reports) != 3 || reports[1].Service != "warehouse" || reports[1].URL != warehouse || reports[1].Status != "up" || reports[1].Subscriptions[0].Cost["requests_per_day"] != 24 ||
			reports[2].Status != "down" || reports[2].Detail == "" || reports[2].Subscriptions == nil {
			t.Errorf("%+v", reports)
		}
	})
	t.Run("rejected entries are listed, retried and dropped", func(t *testing.T) {
		out, _ := alone.run(t, 0, "rejected", "warehouse", "orders")
		if lines := strings.Split(out, "\n"); len(lines) != 3 || !regexp.MustCompile(`^`+bad.ID.String()+`   1 +2 +\d+s ago +1 +status must`).MatchString(lines[1]) {
			t.Errorf("%s", out)
		}
		var list []struct {
			ID uuid.UUID `json:"entity_id"`
		}
		if alone.json(t, 0, &list, "rejected", "warehouse", "orders"); len(list) != 1 || list[0].ID != bad.ID {
			t.Errorf("%+v", list)
		}
		if out, err := alone.run(t, 1, "rejected", "warehouse", "orders", "retry"); out != "0 entries applied\n" || err.Error() != "warehouse/orders: 1 entry refused again" {
			t.Errorf("%v\n%s", err, out)
		}
		if _, err := alone.run(t, 1, "rejected", "warehouse", "orders", "retry", bad.ID.String()); !strings.Contains(err.Error(), "warehouse/orders: 422 Unprocessable Entity: It was refused again: ") {
			t.Error(err)
		}
		if _, err := alone.run(t, 1, "rejected", "warehouse", "orders", "drop", good.ID.String()); !strings.Contains(err.Error(), "404 Not Found: No version of this entity is rejected.") {
			t.Error(err)
		}
		if out, _ := alone.run(t, 0, "rejected", "warehouse", "orders", "drop", bad.ID.String()); !strings.HasPrefix(out, bad.ID.String()+" dropped") {
			t.Error(out)
		}
		if out, _ := alone.run(t, 0, "rejected", "warehouse", "orders"); out != "warehouse/orders has no rejected entries.\n" {
			t.Error(out)
		}
		if alone.json(t, 0, &list, "rejected", "warehouse", "orders"); len(list) != 0 || list == nil {
			t.Errorf("%+v", list)
		}
		alone.do(t, 0, "status")
	})
	t.Run("tune shows the cost", func(t *testing.T) {
		out, _ := alone.run(t, 0, "tune", "warehouse", "orders", "@every 30s", "--wait", "25s", "--page-size", "10")
		for _, line := range []string{
			"warehouse/orders:   fresh\n", "  schedule          @every 30s, wait 25s, page size 10 (set at run time)\n",
			"  cost              about 3,456 requests a day; something new is asked for after milliseconds, 1 s at most\n", "  next polls        ",
		} {
			if !strings.Contains(out, line) {
				t.Errorf("no %q in\n%s", line, out)
			}
		}
		var s struct {
			Schedule string
			Source   string `json:"schedule_source"`
			Wait     string
			PageSize int `json:"page_size"`
			Cost     struct {
				Requests float64 `json:"requests_per_day"`
			}
		}
		alone.json(t, 0, &s, "tune", "--wait=5s", "warehouse", "orders", "@every 60s") // flags come anywhere
		if s.Schedule != "@every 60s" || s.Source != "runtime" || s.Wait != "5s" || s.PageSize != 1000 || s.Cost.Requests != 17280 {
			t.Errorf("%+v", s)
		}
		if alone.json(t, 0, &s, "status", "warehouse", "orders"); s.Wait != "5s" {
			t.Errorf("%+v", s)
		}
		_, err := alone.run(t, 2, "tune", "warehouse", "orders", "often", "--wait", "2m", "--page-size", "0")
		if lines := strings.Split(err.Error(), "\n"); len(lines) != 4 || lines[0] != "tune: nothing was changed" || !strings.HasPrefix(lines[1], `SCHEDULE: "often" is not a schedule`) ||
			lines[2] != `--wait: takes whole seconds from "0s" to "30s"` || lines[3] != "--page-size: takes a whole number from 1 to 1000" {
			t.Error(err)
		}
		if alone.json(t, 0, &s, "tune", "warehouse", "orders", "--reset"); s.Schedule != "@every 1h" || s.Source != "environment" || s.Wait != "0s" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("an empty wait is refused before and in earnest", func(t *testing.T) {
		for _, args := range [][]string{{"--wait", ""}, {"--wait", "", "--dry-run"}} {
			if _, err := alone.run(t, 2, append([]string{"tune", "warehouse", "orders", "@every 90s"}, args...)...); !strings.HasPrefix(err.Error(), "tune: nothing was changed\n--wait: takes whole seconds") {
				t.Errorf("%q: %v", args, err)
			}
		}
	})
	t.Run("tune --dry-run compares and sets nothing", func(t *testing.T) {
		out, _ := alone.run(t, 0, "tune", "warehouse", "orders", "@every 90s", "--wait", "25s", "--page-size", "10", "--dry-run")
		for _, line := range []string{
			`^warehouse/orders +NOW +PROPOSED\n`, `\nSchedule +@every 1h +@every 90s\n`, `\nWait +none +25s\n`, `\nPage size +1,000 +10\n`,
			`\nPolls while nothing is new +24 a day +3,456 a day\n`, `\nDelay +30 min on average, 1 h at most +milliseconds, 1 s at most\n`,
			`\nDelay without waiting +30 min on average, 1 h at most +45 s on average, 1 min 30 s at most\n`, `\nNext polls +\d`,
			`\nPolls +\d+ since \d`, `\nNothing new \(304\) +\d+, \d+ %\n`, `\nNothing is set yet\n$`,
		} {
			if !regexp.MustCompile(line).MatchString(out) {
				t.Errorf("no %s in\n%s", line, out)
			}
		}
		if out, _ := alone.run(t, 0, "tune", "warehouse", "orders", "* 8 * * *", "--dry-run"); !strings.Contains(out, "  Its polls are uneven: ") {
			t.Error(out)
		}
		var p struct {
			Proposed struct{ Schedule string }
			Warnings []string
		}
		if alone.json(t, 0, &p, "tune", "warehouse", "orders", "--reset", "--dry-run"); p.Proposed.Schedule != "@every 1h" || len(p.Warnings) != 1 {
			t.Errorf("%+v", p)
		}
		if _, err := alone.run(t, 2, "tune", "warehouse", "orders", "often", "--dry-run", "--page-size", "0"); len(strings.Split(err.Error(), "\n")) != 3 {
			t.Error(err)
		}
		var s struct{ Schedule string }
		if alone.json(t, 0, &s, "status", "warehouse", "orders"); s.Schedule != "@every 1h" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("pause, resume, poll and resync", func(t *testing.T) {
		out, _ := alone.run(t, 0, "pause", "warehouse", "orders")
		if !strings.HasPrefix(out, "warehouse/orders:   paused\n") || strings.Contains(out, "next polls") {
			t.Error(out)
		}
		if out, _ := alone.run(t, 0, "status", "warehouse"); !strings.Contains(out, "warehouse   orders   paused ") {
			t.Error(out)
		}
		alone.do(t, 0, "resume", "warehouse", "orders")
		var s struct {
			State, Cursor string
			Generation    int
		}
		if alone.json(t, 0, &s, "poll", "warehouse", "orders"); s.State != "fresh" || !strings.HasPrefix(s.Cursor, "2-") {
			t.Errorf("%+v", s)
		}
		alone.do(t, 0, "resync", "warehouse", "orders")
		alone.do(t, 0, "poll", "warehouse", "orders")
		if alone.json(t, 3, &s, "status", "warehouse", "orders"); s.Generation != 2 { // and the bad entry is back
			t.Errorf("%+v", s)
		}
	})
	t.Run("a poll that fails", func(t *testing.T) {
		down.Store(true)
		defer down.Store(false)
		if _, err := alone.run(t, 1, "poll", "warehouse", "orders"); !strings.HasPrefix(err.Error(), "warehouse/orders: 502 Bad Gateway: The poll failed: ") {
			t.Error(err)
		}
		if out, _ := alone.run(t, 3, "status"); !regexp.MustCompile(`warehouse   orders   fresh, failing .* \d+s +\S.*503`).MatchString(out) {
			t.Error(out)
		}
		if out, _ := alone.run(t, 3, "status", "warehouse", "orders"); !strings.Contains(out, "  failing           polls fail since ") {
			t.Error(out)
		}
	})
	t.Run("names that are nearly right", func(t *testing.T) {
		for _, x := range []struct {
			args []string
			says string
		}{
			{[]string{"status", "wharehouse"}, `there is no service "wharehouse"; did you mean "warehouse"?`},
			{[]string{"status", "x"}, `there is no service "x"; there are sales, warehouse, billing`},
			{[]string{"poll", "warehouse", "oders"}, `warehouse copies no feed "oders"; did you mean "orders"?`},
			{[]string{"poll", "sales", "orders"}, `sales copies no feed "orders"`},
			{[]string{"poll", "warehouse"}, `poll takes SERVICE FEED; see subscribers poll --help`},
			{[]string{"poll", "warehouse", "orders", "now"}, `poll takes SERVICE FEED, not also "now"; see subscribers poll --help`},
			{[]string{"rejected", "warehouse", "orders", "rety"}, `rejected takes retry or drop, not "rety"; did you mean "retry"?`},
			{[]string{"rejected", "warehouse", "orders", "drop"}, `drop takes the ID of an entity, as rejected lists it`},
			{[]string{"rejected", "warehouse", "orders", "drop", "7"}, `"7" is not the ID of an entity, such as 01a20846-44a9-7e64-b2ad-57974371e065`},
			{[]string{"tune", "warehouse", "orders"}, `tune takes SERVICE FEED SCHEDULE, or SERVICE FEED --reset; see subscribers tune --help`},
			{[]string{"tune", "warehouse", "orders", "@hourly", "--reset"}, `tune: --reset takes no schedule, --wait or --page-size`},
			{[]string{"tune", "warehouse", "orders", "--wiat", "5s"}, `unknown flag: --wiat; did you mean "--wait"?`},
		} {
			if _, err := o.run(t, 2, x.args...); err.Error() != x.says {
				t.Errorf("%q: %v", x.args, err)
			}
		}
	})
	t.Run("a service that is down", func(t *testing.T) {
		if _, err := o.run(t, 1, "pause", "billing", "orders"); !strings.Contains(err.Error(), "billing/orders: dial tcp ") {
			t.Error(err)
		}
	})
	t.Run("completion of services, feeds and ids", func(t *testing.T) {
		for _, x := range []struct {
			args []string
			want []string
		}{
			{[]string{"status", ""}, []string{"sales", "warehouse", "billing"}},
			{[]string{"poll", "warehouse", ""}, []string{"orders", "builds"}},
			{[]string{"rejected", "warehouse", "orders", ""}, []string{"retry", "drop"}},
			{[]string{"rejected", "warehouse", "orders", "drop", ""}, []string{bad.ID.String()}},
			{[]string{"poll", "billing", ""}, nil},
		} {
			out, _ := o.run(t, 0, append([]string{"__complete"}, x.args...)...)
			if words := strings.Split(strings.TrimSpace(out), "\n"); !slices.Equal(words[:len(words)-1], x.want) {
				t.Errorf("%q: %q", x.args, words)
			}
		}
	})
}

// Services are asked with the token of the environment, or that of their URL.
func TestForget(t *testing.T) {
	t.Parallel()
	line := order.Line{Model: "volta", Options: []string{}, Quantity: 1, UnitPriceCents: 1}
	eu, us := ordersFeed(t, placed(line)), ordersFeed(t, placed(line), placed(line))
	pool := pgtest.New(t)
	env := map[string]string{
		"FEED_URL_ORDERS": "eu=" + eu + " us=" + us, "POLL_ORDERS": "@every 1h", "FEED_URL_BUILDS": serveFeed(t, carbuild.Feed), "POLL_BUILDS": "@every 1h",
	}
	o := operator{"SERVICES": "warehouse=" + start(t, "warehouse", pool, env)}
	o.do(t, 0, "poll", "warehouse", "orders@eu")
	o.do(t, 0, "poll", "warehouse", "orders@us")
	o.do(t, 1, "forget", "warehouse", "orders@us") // it is in the settings
	o.do(t, 2, "forget", "warehouse")
	env["FEED_URL_ORDERS"] = "us=" + us
	again := pgtest.New(t)
	alone := operator{"SERVICES": "warehouse=" + start(t, "warehouse", again, env)}
	alone.do(t, 1, "forget", "warehouse", "orders@eu") // it never was
	if _, err := again.Exec(t.Context(), `insert into subscription (service, feed) values ('warehouse', 'orders@eu')`); err != nil {
		t.Fatal(err)
	}
	if out, _ := alone.run(t, 0, "forget", "warehouse", "orders@eu"); out != "warehouse/orders@eu is forgotten\n" {
		t.Errorf("%s", out)
	}
}

func TestOperateWithTokens(t *testing.T) {
	t.Parallel()
	reader, readerHash := access.NewToken()
	ada, adaHash := access.NewToken()
	url := start(t, "warehouse", pgtest.New(t), map[string]string{
		"FEED_URL_ORDERS": ordersFeed(t), "FEED_URL_BUILDS": serveFeed(t, carbuild.Feed), "ACCESS": "closed", "TOKENS": "ada:operator:" + adaHash + ",tess:reader:" + readerHash,
	})
	services := "warehouse=" + url
	operator{"SERVICES": services, "FEED_TOKEN": ada}.do(t, 0, "poll", "warehouse", "builds")
	for name, x := range map[string]struct {
		env            operator
		status, change int
	}{
		"none":        {operator{"SERVICES": services}, 3, 1},
		"a reader":    {operator{"SERVICES": services, "FEED_TOKEN": reader}, 0, 1},
		"an operator": {operator{"SERVICES": services, "FEED_TOKEN": ada}, 0, 0},
		"in the URL":  {operator{"SERVICES": strings.Replace(services, "http://", "http://ada:"+ada+"@", 1), "FEED_TOKEN": reader}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := x.env.run(t, x.status, "status")
			if x.status != 0 && !strings.Contains(out, "warehouse   -      refused   ") {
				t.Error(out)
			}
			if _, err := x.env.run(t, x.change, "pause", "warehouse", "orders"); err != nil && !strings.Contains(err.Error(), "Set FEED_TOKEN") {
				t.Error(err)
			}
			if out, _ := x.env.run(t, x.status, "status", "--json"); strings.Contains(out, ada) || !strings.Contains(out, `"url": "`+url+`"`) {
				t.Error(out)
			}
		})
	}
	for says, env := range map[string]operator{
		"SERVICES: takes NAME=URL,NAME=URL":                                  {"SERVICES": "warehouse"},
		"FEED_TOKEN takes a token":                                           {"FEED_TOKEN": "a b"},
		"SERVICES: far: FEED_TOKEN would be sent to far.example without TLS": {"FEED_TOKEN": ada, "SERVICES": "far=http://far.example"},
	} {
		if _, err := env.run(t, 2, "status"); !strings.HasPrefix(err.Error(), says) {
			t.Error(err)
		}
	}
}

// A redirect gets no token, and other programs and broken answers are no copies.
func TestOperateOthers(t *testing.T) {
	t.Parallel()
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen.Store(true) }))
	t.Cleanup(thief.Close)
	answers := map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
		},
		"page":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"object": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") },
		"screen": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/subscriptions" {
				_, _ = io.WriteString(w, `[{"feed":"ord\u001b[2Jers","state":"fr\u001besh","wait":"0s","as_of":"2026-11-23T12:00:00Z","last_error":"\u001b[2Jred\tand\nblue"}]`)
			}
		},
	}
	answers["words"] = func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"status":500,"detail":"\u001b[2Jred","errors":[{"field":"x","detail":"\u001b[2J"}]}`)
	}
	wants := map[string]string{
		"redirect": "not ready   .*307 Temporary Redirect", "page": "down   .*not a service of this company", "object": "down   .*not a service of this company",
		"screen": `ord \[2Jers   fr esh   .* \[2Jred and blue`, "words": `not ready   .*500 Internal Server Error:  \[2Jred`,
	}
	for name, handler := range answers {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		var out bytes.Buffer
		err := run(t.Context(), []string{"status"}, operator{"SERVICES": name + "=" + server.URL, "FEED_TOKEN": "secret"}, &out)
		if _, rows, _ := strings.Cut(out.String(), "\n"); !regexp.MustCompile(wants[name]).MatchString(rows) || strings.Contains(rows, "\x1b") {
			t.Errorf("%s: %v\n%s", name, err, &out)
		}
		if err := run(t.Context(), []string{"status", name, "orders"}, operator{"SERVICES": name + "=" + server.URL}, &out); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v\n%s", name, err, &out)
		}
	}
	if stolen.Load() {
		t.Error("the token followed a redirect")
	}
}

// What a service cannot have answered is an error, and has an end.
func TestOperateLiars(t *testing.T) {
	t.Parallel()
	const entry = `{"entity_id":"01a20846-44a9-7e64-b2ad-57974371e065","version":1,"position":7,"reason":"x","rejected_at":"2026-11-23T12:00:00Z"}`
	for name, x := range map[string]struct{ args, answer string }{
		"rejected entries without end":    {"rejected w orders", `[` + entry + `]`},
		"no list of rejected entries":     {"rejected w orders", `null`},
		"a rejected entry of no entity":   {"rejected w orders", `[{}]`},
		"the copy of another feed":        {"status w orders", `{"feed":"customers","state":"fresh","as_of":"2026-11-23T12:00:00Z"}`},
		"another copy than the one named": {"pause w orders", `{"feed":"customers","state":"paused"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", "<"+r.URL.Path+"?after=7>; rel=next")
				_, _ = io.WriteString(w, x.answer)
			}))
			t.Cleanup(server.Close)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var out bytes.Buffer
			err := run(ctx, strings.Fields(x.args), operator{"SERVICES": "w=" + server.URL}, &out)
			if err == nil || !strings.Contains(err.Error(), "not a service of this company") || out.Len() > 0 {
				t.Errorf("%v\n%s", err, &out)
			}
		})
	}
}

// Without SERVICES all services on this machine are asked, and the relay may not run.
func TestOperateHere(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ args, want string }{{"status relay", "relay"}, {"status", "warehouse"}} {
		var out bytes.Buffer
		err := run(t.Context(), strings.Fields(x.args), operator{}, &out)
		if errors.Is(err, daemon.ErrUsage) || !strings.Contains(out.String(), "\n"+x.want) {
			t.Errorf("%s: %v\n%s", x.args, err, &out)
		}
	}
}

func TestVersionAndCompletion(t *testing.T) {
	t.Parallel()
	if out, _ := (operator{}).run(t, 0, "--version"); !strings.HasPrefix(out, "subscribers ") || !strings.Contains(out, "(go1.") {
		t.Error(out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _ := (operator{}).run(t, 0, "completion", shell); !strings.Contains(out, "__complete") {
			t.Errorf("%s: %s", shell, out)
		}
	}
	if _, err := (operator{}).run(t, 2, "completion", "tcsh"); err.Error() != "completion takes bash, zsh or fish" {
		t.Error(err)
	}
	for _, name := range []string{"status", "poll", "pause", "resume", "tune", "resync", "rejected"} {
		out, _ := (operator{}).run(t, 0, name, "--help")
		for _, part := range []string{"Usage:\n  subscribers " + name + " ", "Examples:\n", "--json ", "SERVICES ", "FEED_TOKEN ", "Exit codes: 0 done; 1 ", "3 (status) "} {
			if !strings.Contains(out, part) {
				t.Errorf("%s --help does not say %q:\n%s", name, part, out)
			}
		}
	}
}
