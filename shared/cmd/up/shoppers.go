package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	shoppersName   = "shoppers"
	atOnce         = 64               // orders at the same time; further shoppers wait
	cancelOneIn    = 12               // orders
	meanRegret     = 10 * time.Second // from an order to its cancellation
	retryInterval  = time.Second      // plus or minus a half
	requestTimeout = 10 * time.Second
)

// shoppers are invented people that sign up at customers and buy cars at sales, through their public APIs.
type shoppers struct {
	shop     string // URL of sales
	accounts string // URL of customers; empty: all buy as guests
	people   []*person

	accountsFile string        // keeps the accounts across restarts
	mean         time.Duration // between two orders
	out          *console
	http         *http.Client

	mu            sync.Mutex
	salesAway     outage
	customersAway outage
	refused       map[int]bool // status codes that were reported
}

// An outage is the shoppers' knowledge about an app.
type outage struct {
	name, then string // the app, and what shoppers do without it
	away       bool
	since      time.Time // of the outage or of its end
}

type car struct {
	Model   string `json:"model"`
	Options []struct {
		Option string `json:"option"`
	} `json:"options"`
}

type line struct {
	Model    string   `json:"model"`
	Options  []string `json:"options"`
	Quantity int      `json:"quantity"`
}

type basket struct {
	Lines []line `json:"lines"`
}

// shoppersFile is the name of the accounts' file in the company's folder.
const shoppersFile = "shoppers.json"

func newShoppers(shop, accounts, dir string, ordersPerMinute int, out *console) *shoppers {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = atOnce
	return &shoppers{
		shop: shop, accounts: accounts, people: people(), accountsFile: filepath.Join(dir, shoppersFile),
		mean:          time.Minute / time.Duration(ordersPerMinute),
		out:           out,
		http:          &http.Client{Transport: transport, Timeout: requestTimeout},
		salesAway:     outage{name: sales, then: "wait"},
		customersAway: outage{name: customersApp, then: "buy as guests"},
		refused:       map[int]bool{},
	}
}

// run sends orders as a Poisson process until ctx is cancelled. While sales is down, pending orders wait, and no new
// ones begin.
func (s *shoppers) run(ctx context.Context) {
	s.remember()
	var models []car
	if body, ok := s.do(ctx, http.MethodGet, "/models", "", nil); !ok {
		return
	} else if err := json.Unmarshal(body, &models); err != nil || len(models) == 0 {
		s.out.line(shoppersName, "nothing to buy: GET /models has %d models: %v", len(models), err)
		return
	}
	s.out.line(shoppersName, "buying about %d times a minute", time.Minute/s.mean)
	var underway sync.WaitGroup
	defer underway.Wait()
	slots := make(chan struct{}, atOnce)
	for next := time.Now(); ; {
		if late := time.Since(next); late > time.Second {
			next = time.Now()
		}
		next = next.Add(time.Duration(rand.ExpFloat64() * float64(s.mean)))
		if !wait(ctx, time.Until(next)) {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		underway.Go(func() {
			p := s.people[rand.N(len(s.people))]
			by := s.credential(ctx, p)
			id, token, ok := s.buy(ctx, by.Token, models)
			<-slots
			if !ok {
				return
			}
			if rand.N(cancelOneIn) == 0 && wait(ctx, time.Duration(rand.ExpFloat64()*float64(meanRegret))) {
				s.do(ctx, http.MethodPost, "/orders/"+id+"/cancel", token, nil)
			}
			if by.Token == "" { // the guest has a token now
				s.mu.Lock()
				p.guest.Token = token
				s.mu.Unlock()
			}
			s.live(ctx, p, by)
		})
	}
}

// buy returns the order's id and its buyer's token, a new one if token is "". ok is false if sales refused the order or
// ctx was cancelled.
func (s *shoppers) buy(ctx context.Context, token string, models []car) (id, buyerToken string, ok bool) {
	var b basket
	for range 1 + rand.N(6)/5 { // one in six buys two models
		m := models[rand.N(len(models))]
		l := line{Model: m.Model, Options: []string{}, Quantity: 1 + rand.N(8)/7}
		for _, o := range m.Options {
			if rand.N(3) == 0 {
				l.Options = append(l.Options, o.Option)
			}
		}
		b.Lines = append(b.Lines, l)
	}
	body, err := json.Marshal(b)
	if err != nil {
		s.out.line(shoppersName, "%v", err)
		return "", "", false
	}
	answer, ok := s.do(ctx, http.MethodPost, "/orders", token, body)
	var order struct {
		ID         string `json:"id"`
		BuyerToken string `json:"buyer_token"`
	}
	if !ok || json.Unmarshal(answer, &order) != nil || order.ID == "" {
		return "", "", false
	}
	return order.ID, cmp.Or(token, order.BuyerToken), true
}

// do repeats the request with the same Idempotency-Key until sales answers. ok is false if the answer is a refusal or
// ctx was cancelled.
func (s *shoppers) do(ctx context.Context, method, path, token string, body []byte) (answer []byte, ok bool) {
	key := uuid.NewString()
	for {
		began := time.Now()
		status, answer, err := s.once(ctx, method, s.shop+path, key, token, body)
		again := err != nil || status >= 500 || status == http.StatusTooManyRequests
		if ctx.Err() != nil {
			return nil, false
		}
		s.tell(&s.salesAway, began, again, status, err)
		if !again {
			if status >= 300 {
				s.tellRefusal(method+" "+path, status, answer)
			}
			return answer, status < 300
		}
		if !wait(ctx, retryInterval/2+rand.N(retryInterval)) {
			return nil, false
		}
	}
}

func (s *shoppers) once(ctx context.Context, method, url, key, token string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, answer, err
}

// tell reports once that an app is down, and once that it is up again. It ignores a request that began before the last
// change.
func (s *shoppers) tell(o *outage, began time.Time, away bool, status int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if away == o.away || began.Before(o.since) {
		return
	}
	switch {
	case !away:
		s.out.line(shoppersName, "%s is back, the shoppers go on", o.name)
	case err != nil:
		s.out.line(shoppersName, "%s does not answer, the shoppers %s: %v", o.name, o.then, err)
	default:
		s.out.line(shoppersName, "%s answers %d, the shoppers %s", o.name, status, o.then)
	}
	o.away, o.since = away, time.Now()
}

func (s *shoppers) tellRefusal(request string, status int, answer []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.refused[status] {
		s.refused[status] = true
		s.out.line(shoppersName, "%s refused with %d (told once): %.500s", request, status, strings.Join(strings.Fields(string(answer)), " "))
	}
}

// wait reports whether d passed before ctx was cancelled.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
