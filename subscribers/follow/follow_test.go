package follow

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

var everybody = access.Settings{Access: access.Open}

// formats runs a test for each, with the flag that asks for it.
func formats(t *testing.T, test func(t *testing.T, atom bool, format string)) {
	for _, atom := range []bool{false, true} {
		format := fmt.Sprintf("--atom=%t", atom)
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			test(t, atom, format)
		})
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	o, changing := newOrigin(t, 20, everybody), uuid.New()
	o.publish(t, put(changing, 1), put(changing, 2), remove(changing, 3), put(uuid.New(), 1))
	formats(t, func(t *testing.T, atom bool, format string) {
		for _, limit := range []string{"1", "7", "24", "1000"} {
			p := start(t, nil, "", format, "--once", o.feedURL(), "--after", "0", "--limit", limit)
			p.wantExit(t, 0)
			last := o.wantPrinted(t, p.out.String(), 1, atom)
			if got, want := p.err.String(), fmt.Sprintf("follow: up to date at %s\n", last.Cursor); got != want {
				t.Errorf("stderr %q, want %q", got, want)
			}
			p = start(t, nil, "", format, "--once", o.feedURL()+"?after="+last.Cursor.String())
			p.wantExit(t, 0, "up to date at "+last.Cursor.String())
			if p.out.String() != "" {
				t.Errorf("behind the end it prints %s", &p.out)
			}
		}
		p := start(t, nil, "", format, "--once", o.feedURL())
		p.wantExit(t, 0, "from 24-", "--after 0 prints the whole history")
		if p.out.String() != "" {
			t.Errorf("from the newest entry on it prints %s", &p.out)
		}
	})
}

func TestLive(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	formats(t, func(t *testing.T, atom bool, format string) {
		for _, x := range []struct {
			name string
			args []string
			deaf bool // something on the way does not pass on Prefer
			says string
		}{
			{"waiting", []string{"--every", "1h"}, false, ""},
			{"waiting for short", []string{"--every", "1h", "--wait=1s"}, false, ""},
			{"polling", []string{"--every", "100ms", "--wait=false"}, false, ""},
			{"polling where the source does not wait", []string{"--every", "100ms"}, true, "the source does not wait for news: polling every 100ms"},
		} {
			t.Run(x.name, func(t *testing.T) {
				t.Parallel()
				o := newOrigin(t, 5, everybody)
				var asked, held atomic.Int64
				o.change(func(h http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if x.deaf {
							r.Header.Del("Prefer")
						}
						if r.URL.RawQuery != "" {
							asked.Add(1)
						}
						if r.Header.Get("Prefer") != "" {
							held.Add(1)
						}
						h.ServeHTTP(w, r)
					})
				})
				p := start(t, nil, "", append(x.args, format, o.feedURL())...)
				p.says(t, "from 5-")
				p.eventually(t, "a request that finds nothing", func() bool { return asked.Load() > 0 })
				for n := range 3 {
					o.fill(t, 2)
					p.printed(t, 2*n+2)
				}
				p.interrupt(t)
				p.wantExit(t, 0, x.says)
				o.wantPrinted(t, p.out.String(), 6, atom)
				if waits := held.Load() > 0; waits != strings.HasPrefix(x.name, "waiting") {
					t.Errorf("asked to wait: %t", waits)
				}
				if lines := strings.Count(p.err.String(), "\n"); x.says == "" && lines != 1 || lines > 2 {
					t.Errorf("it says\n%s", &p.err)
				}
			})
		}
	})
}

// Something on the way says that it waits, and does not.
func TestWaitsNot(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	formats(t, func(t *testing.T, _ bool, format string) {
		o := newOrigin(t, 1, everybody)
		var asked atomic.Int64
		o.change(func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Prefer") != "" {
					asked.Add(1)
					r.Header.Del("Prefer")
					w.Header().Set("Preference-Applied", "wait=30")
				}
				h.ServeHTTP(w, r)
			})
		})
		p := start(t, nil, "", format, "--every=300ms", o.feedURL())
		p.eventually(t, "the first poll", func() bool { return asked.Load() > 0 })
		began := time.Now()
		p.eventually(t, "four more", func() bool { return asked.Load() > 4 })
		if d := time.Since(began); d < 3*300*time.Millisecond {
			t.Errorf("four within %v", d)
		}
	})
}

func TestSourceKilled(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	formats(t, func(t *testing.T, atom bool, format string) {
		o := newOrigin(t, 3, everybody)
		p := start(t, nil, "", format, "--after=0", o.feedURL())
		p.printed(t, 3)
		for n, news := range []int{0, 4} {
			told := func(text string) {
				p.eventually(t, text, func() bool { return strings.Count(p.err.String(), text) == n+1 })
			}
			o.kill()
			p.eventually(t, "a word on it", func() bool {
				return strings.Count(p.err.String(), "trying again") > strings.Count(p.err.String(), "answers again")
			})
			o.fill(t, news)
			o.serve(t, o.Listener.Addr().String())
			told("follow: the source answers again\n")
			p.printed(t, 3+news)
		}
		p.interrupt(t)
		p.wantExit(t, 0)
		o.wantPrinted(t, p.out.String(), 1, atom)
		refused := strings.Count(p.err.String(), "connection refused; trying")
		if lines := strings.Count(p.err.String(), "\n"); refused > 2 || lines > 6 { // each time a connection lost, one refused, and all is well
			t.Errorf("it repeats itself:\n%s", &p.err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	formats(t, func(t *testing.T, atom bool, format string) {
		o := newOrigin(t, 3, everybody)
		var at atomic.Pointer[time.Time]
		var early atomic.Bool
		o.change(func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				now := time.Now()
				if r.URL.RawQuery != "" && at.CompareAndSwap(nil, &now) {
					w.Header().Set("Retry-After", "2")
					http.Error(w, "away", http.StatusServiceUnavailable)
					return
				}
				if first := at.Load(); first != nil && now.Sub(*first) < 2*time.Second {
					early.Store(true)
				}
				h.ServeHTTP(w, r)
			})
		})
		p := start(t, nil, "", format, "--after=0", "--once", o.feedURL())
		p.wantExit(t, 0, "follow: the source answered 503 Service Unavailable; trying again", "the source answers again")
		o.wantPrinted(t, p.out.String(), 1, atom)
		if early.Load() {
			t.Error("it asked before the time that the source gave")
		}
	})
}

func TestDiverged(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "processes")
	formats(t, func(t *testing.T, atom bool, format string) {
		o, restored := newOrigin(t, 9, everybody), newOrigin(t, 5, everybody)
		fixed := start(t, nil, "", format, "--after=0", "--limit=2", o.feedURL())
		fixed.printed(t, 9)
		newest := start(t, nil, "", format, o.feedURL())
		newest.says(t, "from 9-")

		before := o.entries
		o.change(func(http.Handler) http.Handler { return restored.handler })
		o.log, o.entries = restored.log, restored.entries
		o.CloseClientConnections()

		fixed.wantExit(t, Diverged, "answered 410 Gone", "To start again: follow '"+o.feedURL()+"?after=0&limit=2&history=4-")
		o.entries, before = before, o.entries
		o.wantPrinted(t, fixed.out.String(), 1, atom)
		o.entries = before

		newest.says(t, "is not in the source's history any more")
		newest.says(t, "from 5-")
		o.fill(t, 2)
		newest.printed(t, 2)
		newest.interrupt(t)
		newest.wantExit(t, 0)
		o.wantPrinted(t, newest.out.String(), 6, atom)

		_, again, _ := strings.Cut(fixed.err.String(), "follow '")
		again, _, _ = strings.Cut(again, "'")
		p := start(t, nil, "", format, "--once", again)
		p.wantExit(t, 0)
		o.wantPrinted(t, p.out.String(), 1, atom)
	})
}

func TestClosedPipe(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, 2000, everybody)
	t.Run("in the middle of a page", func(t *testing.T) {
		t.Parallel()
		p, read, lines := piped(t, "--after=0", "--limit=1000", o.feedURL())
		for range 3 {
			if line, err := lines.ReadString('\n'); err != nil || !json.Valid([]byte(line)) {
				t.Fatalf("%q, %v", line, err)
			}
		}
		read.Close()
		p.wantExit(t, 0)
		if p.err.String() != "" {
			t.Errorf("it says %s", &p.err)
		}
	})
	t.Run("while nothing happens", func(t *testing.T) {
		t.Parallel()
		p, read, _ := piped(t, o.feedURL())
		p.says(t, "from 2000-")
		read.Close()
		p.wantExit(t, 0)
		if strings.Count(p.err.String(), "\n") != 1 {
			t.Errorf("it says %s", &p.err)
		}
	})
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, 2000, everybody)
	for _, x := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 0, ""},
		{[]string{"--once"}, 1, "before it was up to date"},
	} {
		t.Run(fmt.Sprint(x.args), func(t *testing.T) {
			t.Parallel()
			p, _, lines := piped(t, append(x.args, "--after=0", "--limit=1000", o.feedURL())...)
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			p.interrupt(t) // it cannot write on: nobody reads
			rest, err := io.ReadAll(lines)
			if err != nil {
				t.Fatal(err)
			}
			p.wantExit(t, x.code, x.says)
			printed := strings.Split(string(rest), "\n")
			if last := printed[len(printed)-1]; last != "" || len(printed) > 1990 {
				t.Errorf("after %d lines it ends with %q", len(printed), last)
			}
			for _, l := range printed[:len(printed)-1] {
				if !json.Valid([]byte(l)) {
					t.Errorf("torn: %q", l)
				}
			}
		})
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	token, hash := access.NewToken()
	var readers access.Settings
	if err := readers.Tokens.UnmarshalText([]byte("reader:reader:" + hash)); err != nil {
		t.Fatal(err)
	}
	o := newOrigin(t, 3, readers)
	formats(t, func(t *testing.T, atom bool, format string) {
		p := start(t, nil, "", format, "--after=0", o.feedURL())
		p.wantExit(t, 1, "401 Unauthorized", "FEED_TOKEN")
		p = start(t, nil, "FEED_TOKEN=datafeed_WRONG", format, "--after=0", o.feedURL())
		p.wantExit(t, 1, "401 Unauthorized", "not valid")
		for _, env := range []string{"FEED_TOKEN=" + token, ""} {
			url := o.feedURL()
			if env == "" {
				url = strings.Replace(url, "//", "//reader:"+token+"@", 1)
			}
			p = start(t, nil, env, format, "--after=0", "--once", url)
			p.wantExit(t, 0)
			o.wantPrinted(t, p.out.String(), 1, atom)
			p = start(t, nil, env, format, "--after=3-000000000000", "--once", url)
			p.wantExit(t, Diverged)
			if strings.Contains(p.err.String(), token) {
				t.Errorf("it tells the token:\n%s", &p.err)
			}
		}
	})
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	const url = "http://localhost:8080/feeds/orders"
	for _, flagged := range []string{"--help", "-h"} {
		var out bytes.Buffer
		if err := Run(t.Context(), []string{flagged}, nil, &out, io.Discard); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "--after CURSOR") || !strings.Contains(out.String(), "FEED_TOKEN") {
			t.Errorf("%s: %v\n%s", flagged, err, &out)
		}
	}
	for _, x := range []struct{ args, token, says string }{
		{"", "", "takes the URL of a feed"},
		{url + " " + url, "", "takes one URL"},
		{url + " --wait 10s", "", "--wait=10s"},
		{"localhost:8080/feeds/orders", "", "takes the http or https URL"},
		{"--wait=31s " + url, "", "a duration from 1s to 30s"},
		{"--wait=soon " + url, "", "takes true, false or a duration"},
		{"--every 1ms " + url, "", "100ms at least"},
		{"--limit 0 " + url, "", "from 1 to 1000"},
		{"--limit 1001 " + url, "", "from 1 to 1000"},
		{"--after newest " + url, "", "not a cursor"},
		{"--token secret " + url, "", "-token"},
		{url + "?before=0", "", `not "before"`},
		{url + "?after=0&after=0", "", "each once"},
		{url + "?after=x", "", "the parameter after of the URL"},
		{url + "?limit=2000", "", "from 1 to 1000"},
		{url, "a b", "FEED_TOKEN takes a token"},
		{"http://cars.example/feeds/orders", "datafeed_SECRET", "FEED_TOKEN would be sent to cars.example without TLS: take an https URL or, if all of the network on the way is private, name the host in --plain-hosts"},
		{"http://reader:SECRET@cars.example/feeds/orders", "", "the user in the URL would be sent to cars.example without TLS"},
		{"--plain-hosts=sales http://cars.example/feeds/orders", "datafeed_SECRET", "sent to cars.example"},
		{"--plain-hosts=sales:80 " + url, "", "without ports"},
	} {
		err := Run(t.Context(), strings.Fields(x.args), map[string]string{"FEED_TOKEN": x.token}, io.Discard, io.Discard)
		if !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), x.says) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", x.args, err)
		}
	}
	for _, args := range [][]string{{"http://cars.example/feeds/orders"}, {"--plain-hosts", "sales,cars.example", "http://reader:x@cars.example/feeds/orders"}, {"https://reader:x@cars.example/"}} {
		if _, err := parse(args, nil); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	o, err := parse([]string{url + "?after=0&limit=7&history=4-0123456789ab", "--limit=9", "--wait"}, nil)
	if err != nil || o.url != url || o.limit != 9 || o.after == nil || !o.after.IsStart() || o.history.Position != 4 || o.wait != 30*time.Second {
		t.Errorf("%+v, %v", o, err)
	}
}

// Of links, follow takes cursors alone: the source's may lead where it cannot go, and a proxy may serve the feed under
// a prefix.
func TestLinksLeadNowhereElse(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, 9, everybody)
	proxy := httptest.NewServer(http.StripPrefix("/of/cars", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		h := o.handler
		o.mu.Unlock()
		h.ServeHTTP(w, r)
	})))
	t.Cleanup(proxy.Close)
	at := proxy.URL + "/of/cars/feeds/things"
	formats(t, func(t *testing.T, atom bool, format string) {
		p := start(t, nil, "", format, "--after=0", "--once", "--limit=2", at) // whose pages lead on to http://source.example
		p.wantExit(t, 0)
		o.wantPrinted(t, p.out.String(), 1, atom)
		p = start(t, nil, "", format, "--after=9-000000000000", "--once", "--limit=2", at)
		p.wantExit(t, Diverged, "follow '"+at+"?after=0&limit=2&history=8-")
	})
}

// A superseded entry is printed as such, with the place up to where its newer version is.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	d := feed.Document{
		Description: feed.Description{Name: "things", ID: "tag:things"},
		Page: feed.Page{
			Entries: []feed.Entry{{Position: 1, ID: uuid.New(), Version: 1, Updated: time.Unix(1, 0), Superseded: true}},
			Cursor:  feed.At(1, feed.Digest{1}), Head: feed.At(3, feed.Digest{3}), Compacted: feed.At(3, feed.Digest{3}),
		},
		View: feed.Replay,
	}
	for _, atom := range []bool{false, true} {
		encode, parse := d.JSON, feed.ParsePage
		if atom {
			encode, parse = d.Atom, parseAtom
		}
		body, err := encode()
		if err != nil {
			t.Fatal(err)
		}
		page, err := parse(body, feed.Cursor{})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := newPrinter(&out, atom).print(t.Context(), page); err != nil {
			t.Fatal(err)
		}
		if line := out.String(); !strings.Contains(line, `"deleted":false,"superseded":true,"compacted":"3-030000000000","id":`) || strings.Contains(line, "entity") {
			t.Errorf("--atom=%t prints %s", atom, line)
		}
	}
}
