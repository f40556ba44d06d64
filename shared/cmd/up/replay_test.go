package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/order"
)

// buyers is what all tests ask with.
var buyers = &wallet{RoundTripper: http.DefaultTransport}

var client = &http.Client{Timeout: 10 * time.Second, Transport: buyers}

// get wants a 200.
func get(url, accept string) (header http.Header, body []byte, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return resp.Header, body, err
}

func getJSON(url string, into any) error {
	_, body, err := get(url, "application/json")
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// entry is an item of the orders feed.
type entry struct {
	ID       string `json:"id"`
	Datafeed struct {
		Position   int64       `json:"position"`
		Version    int64       `json:"version"`
		Superseded bool        `json:"superseded"`
		Entity     order.Order `json:"entity"` // of a superseded one only id and version
	} `json:"_datafeed"`
}

// replay reads the whole feed and checks that it has every position and every version once, in order.
func (b *bench) replay(t *testing.T) (entries []entry) {
	t.Helper()
	versions := map[string]int64{}
	for url := b.url(sales) + "/feeds/orders?after=0&limit=100"; ; {
		var page struct {
			Items    []entry `json:"items"`
			Datafeed struct {
				Next     string `json:"next"`
				UpToDate bool   `json:"up_to_date"`
			} `json:"_datafeed"`
		}
		if err := getJSON(url, &page); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Items {
			if e.Datafeed.Superseded {
				e.Datafeed.Entity = order.Order{ID: uuid.MustParse(strings.TrimPrefix(e.ID, "urn:uuid:")), Version: e.Datafeed.Version}
			}
			entries = append(entries, e)
			versions[e.ID]++
			if want := int64(len(entries)); e.Datafeed.Position != want {
				t.Fatalf("position %d where %d belongs", e.Datafeed.Position, want)
			}
			if o := e.Datafeed.Entity; e.Datafeed.Version != versions[e.ID] || o.Version != versions[e.ID] || o.ID.URN() != e.ID {
				t.Fatalf("entry %s version %d with order %s version %d where version %d belongs", e.ID, e.Datafeed.Version, o.ID, o.Version, versions[e.ID])
			}
		}
		if page.Datafeed.UpToDate {
			return entries
		}
		url = page.Datafeed.Next
	}
}

// copies is what warehouse and dashboard make of the feed.
type copies struct {
	Reserved map[string]int64 // pieces by part, none left out but zeros: those for orders that stand, built in or not
	Stats    stats
}

type stats struct {
	Orders       int64 `json:"orders"`
	Cancelled    int64 `json:"cancelled"`
	Cars         int64 `json:"cars"`
	RevenueCents int64 `json:"revenue_cents"`
}

var billOfMaterials = map[string]map[string]int64{
	"volta":  {"battery-module": 5, "motor": 1, "inverter": 1, "body-small": 1, "wheel": 4, "seat": 4},
	"ampere": {"battery-module": 8, "motor": 1, "inverter": 1, "body-large": 1, "wheel": 4, "seat": 5},
	"ohm":    {"battery-module": 8, "motor": 1, "inverter": 1, "body-large": 1, "wheel": 4, "seat": 5},
	"joule":  {"battery-module": 6, "motor": 1, "inverter": 1, "body-van": 1, "wheel": 4, "seat": 2},

	"long_range": {"battery-module": 2}, "heat_pump": {"heat-pump": 1}, "glass_roof": {"glass-roof": 1}, "tow_bar": {"tow-bar": 1},
	"all_wheel_drive": {"motor": 1, "inverter": 1}, "driver_assistance": {"sensor-set": 1}, "third_row": {"seat": 2},
}

// expect computes the copies from the feed.
func expect(entries []entry) copies {
	c := copies{Reserved: map[string]int64{}}
	newest := map[uuid.UUID]order.Order{}
	for _, e := range entries {
		newest[e.Datafeed.Entity.ID] = e.Datafeed.Entity
	}
	for _, o := range newest {
		if o.Status == order.Cancelled {
			c.Stats.Cancelled++
			continue
		}
		c.Stats.Orders++
		c.Stats.RevenueCents += o.TotalCents
		for _, l := range o.Lines {
			c.Stats.Cars += int64(l.Quantity)
			for _, item := range append([]string{l.Model}, l.Options...) {
				for part, pieces := range billOfMaterials[item] {
					c.Reserved[part] += pieces * int64(l.Quantity)
				}
			}
		}
	}
	return c
}

func (b *bench) copies(t *testing.T) (c copies, err error) {
	db, err := connect(t, filepath.Join(b.dir, "warehouse"), "warehouse")
	if err != nil {
		return c, err
	}
	defer db.Close(context.Background())
	rows, err := db.Query(t.Context(), `
		select part, sum(quantity + built_in)::bigint from reservation join orders on orders.id = order_id where status = 'placed' group by part`)
	if err != nil {
		return c, err
	}
	c.Reserved = map[string]int64{}
	var part string
	var pieces int64
	if _, err := pgx.ForEachRow(rows, []any{&part, &pieces}, func() error { c.Reserved[part] = pieces; return nil }); err != nil {
		return c, err
	}
	return c, getJSON(b.url("dashboard")+"/api/stats", &c.Stats)
}

// copied waits until warehouse and dashboard are what the feed says, and gives the feed: it may still grow by what was
// under way.
func (b *bench) copied(t *testing.T) (entries []entry) {
	t.Helper()
	eventually(t, func() error {
		entries = b.replay(t)
		got, err := b.copies(t)
		if want := expect(entries); err == nil && !reflect.DeepEqual(got, want) {
			err = fmt.Errorf("the copies are %v, the feed says %v", got, want)
		}
		return err
	})
	return entries
}

// status is what a subscriber says of its copy of the orders.
type status struct {
	Feed      string    `json:"feed"`
	Cursor    string    `json:"cursor"`
	State     string    `json:"state"`
	AsOf      time.Time `json:"as_of"`
	LastError string    `json:"last_error"`
	Stream    *stream   `json:"stream"`

	Generation    int       `json:"generation"`
	FailingSince  time.Time `json:"failing_since"`
	LastSuccessAt time.Time `json:"last_success_at"`
	ResyncSince   time.Time `json:"resync_since"`
	Schedule      string    `json:"schedule"`
	Wait          string    `json:"wait"`
}

// stream is what it says of the event stream that it hears.
type stream struct {
	State    string `json:"state"`
	Messages int64  `json:"messages"`
}

func (b *bench) status(service string) (status, error) {
	return statusAt(b.url(service))
}

func statusAt(url string) (status, error) {
	var list []status
	if err := getJSON(url+"/subscriptions", &list); err != nil {
		return status{}, err
	}
	for _, s := range list {
		if s.Feed == order.Feed {
			return s, nil
		}
	}
	return status{}, fmt.Errorf("%s does not read the orders", url)
}
