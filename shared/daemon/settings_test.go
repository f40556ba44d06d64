package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

type testSettings struct {
	Addr     string `env:"ADDR" envDefault:"localhost:8080" help:"address to listen at"`
	Database string `env:"DATABASE_URL" help:"PostgreSQL server"`
	Poll     struct {
		Wait time.Duration `env:"WAIT" envDefault:"25s" help:"how long the source may hold a poll"`
		Size uint16        `env:"SIZE" envDefault:"100" help:"entries a page"`
	} `envPrefix:"POLL_"`
	Feed    url.URL      `env:"FEED_URL" envDefault:"http://localhost:8080/feeds/orders" help:"the feed"`
	Verbose *bool        `env:"VERBOSE" help:"more"`
	From    netip.Prefix `env:"FROM" help:"network"`
	Token   string       `env:"TOKEN,required" help:"secret"`
	Other   int
}

func TestParse(t *testing.T) {
	t.Parallel()
	t.Run("defaults, values, and nothing as default", func(t *testing.T) {
		t.Parallel()
		var s testSettings
		err := Parse(map[string]string{"ADDR": ":1", "POLL_WAIT": "", "POLL_SIZE": "7", "TOKEN": "x"}, &s)
		if err != nil || s.Addr != ":1" || s.Poll.Wait != 25*time.Second || s.Poll.Size != 7 || s.Feed.Path != "/feeds/orders" {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("the environment of the process is not read", func(t *testing.T) {
		t.Parallel()
		var s struct {
			Path string `env:"PATH"`
		}
		if err := Parse(nil, &s); err != nil || s.Path != "" {
			t.Error(s.Path, err)
		}
	})
	t.Run("each bad variable, what it takes, and no secret", func(t *testing.T) {
		t.Parallel()
		err := Parse(map[string]string{"POLL_WAIT": "soon", "POLL_SIZE": "70000", "FEED_URL": "http://u:hunter2@h:port", "FROM": "here"}, new(testSettings))
		if !errors.Is(err, ErrUsage) {
			t.Fatal(err)
		}
		want := `POLL_WAIT="soon": takes a duration such as 250ms, 30s or 5m
POLL_SIZE="70000": takes a whole number from 0
FEED_URL: takes a URL such as http://localhost:8080
FROM: netip.ParsePrefix("here"): no '/'
TOKEN must be set`
		if err.Error() != want {
			t.Errorf("%v\nwant\n%s", err, want)
		}
	})
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	Help(&b, &testSettings{}, Setting{"POLL_ORDERS", "@every 5s", "when to poll"})
	want := `  ADDR           localhost:8080                       address to listen at
  DATABASE_URL                                        PostgreSQL server
  POLL_WAIT      25s                                  how long the source may hold a poll
  POLL_SIZE      100                                  entries a page
  FEED_URL       http://localhost:8080/feeds/orders   the feed
  VERBOSE                                             more
  FROM                                                network
  TOKEN                                               secret
  POLL_ORDERS    @every 5s                            when to poll
`
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
}

func TestLogger(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	var level Level
	if err := level.UnmarshalText([]byte("warn")); err != nil {
		t.Fatal(err)
	}
	l := Logger(&b, level)
	l.Info("unseen")
	l.Warn("source down", "url", "postgres://u:hunter2@h/db", "error", fmt.Errorf("dial redis://:hunter2@h: refused"),
		"lag", 3*time.Second, "path", "/feeds?access_token=datafeed_ABCDEFGHIJKLMNOPQRSTUVWXYZ&limit=1",
		"header", "Bearer datafeed_buyer_MTc2_NDM-yNDA5fGV5Sm=", "link", "/signin/datafeed_signin_ABCDEFGHIJKLMNOPQRSTUVWXYZ", slog.Group("g", "time", "http://localhost:8080/a@b"))
	got := b.String()
	_, got, _ = strings.Cut(got, " ")
	want := `level=WARN msg="source down" url=postgres://u:xxxxx@h/db error="dial redis://:xxxxx@h: refused" lag=3s path="/feeds?access_token=datafeed_xxxxx&limit=1" header="Bearer datafeed_xxxxx" link=/signin/datafeed_xxxxx g.time=http://localhost:8080/a@b` + "\n"
	if got != want || !strings.HasPrefix(b.String(), "time=2") {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
	if err := level.UnmarshalText([]byte("loud")); err == nil || err.Error() != `takes debug, info, warn or error, not "loud"` {
		t.Error(err)
	}
}
