package publish

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// nested returns an object of so many levels.
func nested(levels int) []byte {
	return []byte(strings.Repeat(`{"a":[`, levels/2) + strings.Repeat(`{}`, levels%2) + strings.Repeat(`]}`, levels/2))
}

// sized returns an object of so many bytes.
func sized(bytes int) []byte {
	return fmt.Appendf(nil, `{"name":"%s"}`, strings.Repeat("<", bytes-len(`{"name":""}`)))
}

// What the log takes, every page carries and the client reads; what lies beyond is refused, with what it takes.
func TestLimits(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many writers")
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	at := func(updated time.Time) Entry {
		e := thing(uuid.New(), 1)
		e.Updated = updated
		return e
	}
	with := func(payload []byte) Entry {
		e := thing(uuid.New(), 1)
		e.Payload = payload
		return e
	}
	good := map[string]Entry{
		"the deepest":  with(nested(MaxDepth)),
		"the biggest":  with(sized(MaxPayload)),
		"brackets":     with([]byte(`{"name":"` + strings.Repeat(`[{\"\\`, 5000) + `"}`)),
		"no time":      at(time.Time{}),
		"the earliest": at(time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC)),
		"the latest":   at(time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)),
	}
	bad := map[string]Entry{
		"too deep":      with(nested(MaxDepth + 1)),
		"much too deep": with(nested(9997)),
		"too big":       with(sized(MaxPayload + 1)),
		"too late":      at(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)),
	}
	for how, write := range writers {
		for name, e := range bad {
			err := write(t.Context(), l, e)
			if err == nil || len(err.Error()) > 200 || strings.Contains(err.Error(), "<<") {
				t.Errorf("%s, %s: %v, want a short error", how, name, err)
			}
		}
		for name, e := range good {
			e.ID = uuid.New()
			if err := write(t.Context(), l, e); err != nil {
				t.Errorf("%s, %s: %v", how, name, err)
			}
		}
	}
	want := len(writers) * len(good)
	for _, path := range []string{".json?after=0&limit=100", ".atom?after=0&limit=100", ".html?after=0&limit=100", ".json", ".atom", ".html"} {
		if resp, body := get(t, server, "GET", "/feeds/things"+path); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %.200s", path, resp.StatusCode, body)
		}
	}
	client := feedclient.New("")
	defer client.Close()
	answer, err := client.Get(t.Context(), feedclient.Request{URL: server.URL + "/feeds/things", Limit: 100})
	if err != nil || len(answer.Page.Entries) != want {
		t.Fatalf("%v, want a page of %d entries", err, want)
	}
	for _, e := range answer.Page.Entries {
		var v any
		if err := json.Unmarshal(e.Entity, &v); err != nil {
			t.Errorf("entry %d: %v", e.Position, err)
		}
		for _, accept := range []string{"application/json", "text/html"} {
			resp, body := get(t, server, "GET", "/feeds/things/"+e.ID.String(), "Accept", accept)
			if resp.StatusCode != http.StatusOK {
				t.Errorf("the versions of entry %d as %s: %d %.200s", e.Position, accept, resp.StatusCode, body)
			}
		}
	}
	if n := len(logged(t, pool)); n != want {
		t.Errorf("the log has %d entries, want %d", n, want)
	}
}

func TestDepth(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		`{}`: 1, `{"a":1}`: 1, `{"a":[]}`: 2, `{"a":[{}],"b":{"c":{}}}`: 3, `{"[[[":"]]{{"}`: 1, `{"\"{":"\\","a":["\\\"["]}`: 2,
	} {
		if got := depth([]byte(text)); got != want {
			t.Errorf("%s is nested %d deep, want %d", text, got, want)
		}
	}
	if got := depth(bytes.TrimSpace(nested(77))); got != 77 {
		t.Errorf("%d, want 77", got)
	}
}
