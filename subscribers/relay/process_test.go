package relay

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// A process is a relay in a process of its own.
type process struct{ *exectest.Process }

// relay starts one of the feed's to the broker at url.
func (s *source) relay(t *testing.T, db *pgxpool.Pool, url string, more map[string]string) process {
	t.Helper()
	variable := strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
	set := map[string]string{
		"ADDR": "127.0.0.1:0", "DATABASE_URL": pgtest.URL(db), "AMQP_URL": url, "PAGE_SIZE": "100",
		"FEED_URL_" + variable: s.url, "POLL_" + variable: "@every 1s",
	}
	maps.Copy(set, more)
	p := process{exectest.Self(t, set)}
	t.Cleanup(func() {
		if strings.Contains(p.Log(t), "hunter2") {
			t.Error("the log says the password")
		}
	})
	return p
}

// stream is what the API says of the only one.
func (p process) stream(t testing.TB) view {
	t.Helper()
	var o overview
	if _, body := p.Get(t, "/api/relay", "application/json"); json.Unmarshal([]byte(body), &o) != nil || len(o.Streams) != 1 {
		t.Fatal(body)
	}
	return o.Streams[0]
}

// metric is the value of one of the stream's.
func (p process) metric(t testing.TB, name string) (value float64) {
	t.Helper()
	_, body := p.Get(t, "/metrics", "")
	found := regexp.MustCompile(`(?m)^` + name + `\{feed="[^"]+"\} (\S+)$`).FindStringSubmatch(body)
	if found == nil {
		t.Fatalf("no metric %s", name)
	}
	if _, err := fmt.Sscan(found[1], &value); err != nil {
		t.Fatal(err)
	}
	return value
}
