package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/order"
)

// ledger notes what buyers sent and what sales answered.
type ledger struct {
	http.RoundTripper
	mu        sync.Mutex
	purchases map[string]*purchase // by Idempotency-Key
	answered  int                  // of them
	cancelled []uuid.UUID
	at        map[uuid.UUID]time.Time // when the answer to an order came
}

func newLedger(transport http.RoundTripper) *ledger {
	return &ledger{RoundTripper: transport, purchases: map[string]*purchase{}, at: map[uuid.UUID]time.Time{}}
}

type purchase struct {
	bodies []string // one for each time that it was sent
	orders []order.Order
}

func (l *ledger) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.GetBody != nil {
		again, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		if sent, err = io.ReadAll(again); err != nil {
			return nil, err
		}
	}
	resp, err := l.RoundTripper.RoundTrip(r)
	var answer []byte
	if err == nil {
		answer, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(answer))
	}
	if r.Method == http.MethodPost {
		var o order.Order
		if err == nil && resp.StatusCode < 300 {
			err = json.Unmarshal(answer, &o)
		}
		l.note(r, string(sent), o)
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// note: the order's id is nil if sales did not give one.
func (l *ledger) note(r *http.Request, sent string, o order.Order) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/cancel") {
		if o.ID != uuid.Nil {
			l.cancelled = append(l.cancelled, o.ID)
		}
		return
	}
	key := r.Header.Get("Idempotency-Key")
	p := l.purchases[key]
	if p == nil {
		p = new(purchase)
		l.purchases[key] = p
	}
	p.bodies = append(p.bodies, sent)
	if o.ID != uuid.Nil {
		p.orders = append(p.orders, o)
		if len(p.orders) == 1 {
			l.at[o.ID] = time.Now()
			l.answered++
		}
	}
}

// saved returns what the ledger holds, to go back to.
func (l *ledger) saved() (purchases map[string]*purchase, answered int, cancelled []uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	purchases = map[string]*purchase{}
	for key, p := range l.purchases {
		purchases[key] = &purchase{slices.Clone(p.bodies), slices.Clone(p.orders)}
	}
	return purchases, l.answered, slices.Clone(l.cancelled)
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answered
}

// check compares the feed with what was answered, and gives how many purchases were sent more than once
// and answered in the end.
func (l *ledger) check(t *testing.T, entries []entry) (repeated int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	first, newest := map[uuid.UUID]order.Order{}, map[uuid.UUID]order.Order{}
	for _, e := range entries {
		o := e.Datafeed.Entity
		if newest[o.ID] = o; o.Version == 1 {
			first[o.ID] = o
		}
	}
	known := map[uuid.UUID]bool{}
	for key, p := range l.purchases {
		for _, body := range p.bodies {
			if body != p.bodies[0] {
				t.Errorf("under the key %s came %s and %s", key, p.bodies[0], body)
			}
		}
		for _, o := range p.orders {
			known[o.ID] = true
			f, there := first[o.ID]
			superseded := there && f.Status == "" // its content is gone
			if !reflect.DeepEqual(o, p.orders[0]) || !superseded && !reflect.DeepEqual(o, f) {
				t.Errorf("the key %s was answered with %+v and %+v; the feed has %+v", key, p.orders[0], o, first[o.ID])
			}
		}
		if len(p.orders) > 0 && len(p.bodies) > 1 {
			repeated++
		}
	}
	for _, id := range l.cancelled {
		if newest[id].Status != order.Cancelled {
			t.Errorf("order %s was cancelled, on the feed it is %q", id, newest[id].Status)
		}
	}
	// Those may be on the feed whose answer nobody waited for, each once.
	if open := len(l.purchases) - l.answered; len(first) > len(known)+open {
		t.Errorf("%d orders are on the feed; %d were answered, %d more were sent", len(first), len(known), open)
	}
	return repeated
}

// buy buys two cars.
func (w *walk) buy(t *testing.T, key, model string, options ...string) order.Order {
	t.Helper()
	body := fmt.Sprintf(`{"lines": [{"model": %q, "options": [%s], "quantity": 2}]}`,
		model, strings.Join(quoted(options), ", "))
	return w.post(t, "/orders", key, body, http.StatusCreated)
}

func quoted(words []string) (list []string) {
	for _, word := range words {
		list = append(list, strconv.Quote(word))
	}
	return list
}

func (w *walk) cancel(t *testing.T, id uuid.UUID) {
	t.Helper()
	if o := w.post(t, "/orders/"+id.String()+"/cancel", "", "", http.StatusOK); o.Status != order.Cancelled {
		t.Errorf("order %s is %s after it was cancelled", id, o.Status)
	}
}

// post notes the request in the ledger, as the shoppers' are.
func (w *walk) post(t *testing.T, path, key, body string, want int) (o order.Order) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, w.url(sales)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	resp, err := (&http.Client{Transport: w.ledger, Timeout: client.Timeout}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == want {
		err = json.Unmarshal(answer, &o)
	}
	if err != nil || resp.StatusCode != want {
		t.Fatalf("POST %s: %s: %s, %v", path, resp.Status, answer, err)
	}
	return o
}

// shopped waits until sales has answered n more purchases.
func (w *walk) shopped(t *testing.T, n int) {
	t.Helper()
	n += w.ledger.count()
	eventually(t, func() error {
		if now := w.ledger.count(); now < n {
			return fmt.Errorf("%d purchases were answered, %d are missing", now, n-now)
		}
		return nil
	})
}
