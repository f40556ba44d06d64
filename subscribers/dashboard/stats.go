package dashboard

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/web"
)

// statistics are over all orders that are not cancelled. Cancelled orders are only counted.
type statistics struct {
	filter       `json:"-"`
	now          time.Time   // UTC
	RevenueCents int64       `json:"revenue_cents"`
	Currency     string      `json:"currency"`
	Orders       int64       `json:"orders"`
	Cancelled    int64       `json:"cancelled"`
	Cars         int64       `json:"cars"`
	ByModel      []modelSum  `json:"by_model"`          // most cars first
	ByDay        []daySum    `json:"by_day"`            // UTC, oldest first, without days that have no orders
	ByHour       []hourSum   `json:"by_hour,omitempty"` // the same by hour, of up to 3 days
	ByOption     []optionSum `json:"by_option"`         // most cars first
	ByStage      []stageSum  `json:"by_stage"`          // all stages
	LeadTimes    []leadTime  `json:"lead_times"`
}

type modelSum struct {
	Model        string `json:"model"`
	Cars         int64  `json:"cars"`
	RevenueCents int64  `json:"revenue_cents"`
}

type daySum struct {
	Day          string `json:"day"` // 2026-01-31
	Orders       int64  `json:"orders"`
	Cars         int64  `json:"cars"`
	RevenueCents int64  `json:"revenue_cents"`
}

type hourSum struct {
	Hour         time.Time `json:"hour"` // its begin
	Orders       int64     `json:"orders"`
	Cars         int64     `json:"cars"`
	RevenueCents int64     `json:"revenue_cents"`
}

type optionSum struct {
	Option       string `json:"option"`
	Cars         int64  `json:"cars"`          // that have the option
	RevenueCents int64  `json:"revenue_cents"` // of those cars, including their other options
}

// A stageSum counts the orders whose slowest car is in the stage.
type stageSum struct {
	Stage  string `json:"stage"` // placed, planned, started, built, shipped
	Orders int64  `json:"orders"`
}

// A leadTime is the time that complete orders took, in seconds rounded to two digits. It is left out without such
// orders.
type leadTime struct {
	From          string `json:"from"` // placed or built
	To            string `json:"to"`   // built or shipped
	Orders        int64  `json:"orders"`
	MedianSeconds int64  `json:"median_seconds"`
	P90Seconds    int64  `json:"p90_seconds"` // 90 of 100 orders took no longer
}

var (
	stages = []string{"placed", "planned", "started", "built", "shipped"}
	leads  = []string{"placed-built", "built-shipped", "placed-shipped"}
)

// A filter selects the orders placed from one day to another, both included, UTC. Empty: no limit.
type filter struct{ From, To string }

func readFilter(r *http.Request) (f filter, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return f, web.Errorf(http.StatusBadRequest, "The query is malformed: %v.", err)
	}
	for _, p := range []struct {
		name  string
		into  *string
		takes string
	}{{"from", &f.From, "a day such as 2026-11-23"}, {"to", &f.To, "a day such as 2026-11-23, not before that of from"}} {
		values := query[p.name]
		if len(values) > 1 {
			return f, web.Errorf(http.StatusBadRequest, "The parameter %s may be given only once.", p.name)
		}
		if len(values) == 0 || values[0] == "" { // forms send empty parameters
			continue
		}
		if _, err := time.Parse(time.DateOnly, values[0]); err != nil || values[0] < "0001" || values[0] < f.From {
			return f, web.Errorf(http.StatusBadRequest, "The parameter %s takes %s.", p.name, p.takes)
		}
		*p.into = values[0]
	}
	return f, nil
}

func (f filter) bounds() (from, to string) {
	return cmp.Or(f.From, "-infinity"), cmp.Or(f.To, "infinity")
}

// Query returns the filter as a URL's query, with the question mark.
func (f filter) Query() string {
	query := url.Values{}
	for name, day := range map[string]string{"from": f.From, "to": f.To} {
		if day != "" {
			query.Set(name, day)
		}
	}
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

// stats reads all figures from one snapshot, so that they agree.
func stats(r *http.Request, db *pgxpool.Pool) (*statistics, error) {
	f, err := readFilter(r)
	if err != nil {
		return nil, err
	}
	s := &statistics{filter: f, now: time.Now().UTC(), Currency: "EUR", ByModel: []modelSum{}, ByOption: []optionSum{}, LeadTimes: []leadTime{}}
	err = pgx.BeginTxFunc(r.Context(), db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := s.readDays(r.Context(), tx); err != nil {
			return err
		}
		if len(s.ByDay) > 0 && s.days().step().hourly() {
			if err := s.readHours(r.Context(), tx); err != nil {
				return err
			}
		}
		return s.readNames(r.Context(), tx)
	})
	for _, d := range s.ByDay {
		s.Orders += d.Orders
		s.Cars += d.Cars
		s.RevenueCents += d.RevenueCents
	}
	return s, err
}

func (s *statistics) readDays(ctx context.Context, tx pgx.Tx) (err error) {
	from, to := s.bounds()
	rows, _ := tx.Query(ctx, `
		select to_char(day, 'YYYY-MM-DD'), sum(orders)::bigint, sum(cars)::bigint, sum(revenue_cents)::bigint
		  from figure where kind = 'stage' and name <> 'cancelled' and day between $1::text::date and $2::text::date
		 group by day having sum(orders) > 0 order by day`, from, to)
	s.ByDay, err = pgx.CollectRows(rows, pgx.RowToStructByPos[daySum])
	return err
}

func (s *statistics) readHours(ctx context.Context, tx pgx.Tx) (err error) {
	from, to := s.bounds()
	rows, _ := tx.Query(ctx, `
		select day + name::int * interval '1 hour', orders, cars, revenue_cents
		  from figure where kind = 'hour' and day between $1::text::date and $2::text::date and orders > 0 order by 1`, from, to)
	s.ByHour, err = pgx.CollectRows(rows, pgx.RowToStructByPos[hourSum])
	return err
}

// readNames reads the figures that are not by day.
func (s *statistics) readNames(ctx context.Context, tx pgx.Tx) error {
	from, to := s.bounds()
	rows, _ := tx.Query(ctx, `
		select kind, name, sum(orders)::bigint, sum(cars)::bigint, sum(revenue_cents)::bigint
		  from figure where day between $1::text::date and $2::text::date
		 group by kind, name having sum(orders) > 0 order by 4 desc, 2`, from, to)
	inStage, spans := map[string]int64{}, map[string][]leadSpan{}
	var kind, name string
	var orders, cars, cents int64
	_, err := pgx.ForEachRow(rows, []any{&kind, &name, &orders, &cars, &cents}, func() error {
		switch kind {
		case "stage":
			inStage[name] = orders
		case "model":
			s.ByModel = append(s.ByModel, modelSum{name, cars, cents})
		case "option":
			s.ByOption = append(s.ByOption, optionSum{name, cars, cents})
		case "hour":
		default:
			seconds, err := strconv.ParseInt(name, 10, 64)
			spans[kind] = append(spans[kind], leadSpan{seconds, orders})
			return err
		}
		return nil
	})
	s.Cancelled = inStage["cancelled"]
	for _, stage := range stages {
		s.ByStage = append(s.ByStage, stageSum{stage, inStage[stage]})
	}
	for _, kind := range leads {
		if list := spans[kind]; len(list) > 0 {
			slices.SortFunc(list, func(a, b leadSpan) int { return cmp.Compare(a.seconds, b.seconds) })
			l := leadTime{MedianSeconds: percentile(list, 50), P90Seconds: percentile(list, 90)}
			l.From, l.To, _ = strings.Cut(kind, "-")
			for _, sp := range list {
				l.Orders += sp.orders
			}
			s.LeadTimes = append(s.LeadTimes, l)
		}
	}
	return err
}

type leadSpan struct{ seconds, orders int64 }

// percentile returns the shortest span that p of 100 orders did not exceed. spans are in ascending order.
func percentile(spans []leadSpan, p int64) int64 {
	total, sum := int64(0), int64(0)
	for _, s := range spans {
		total += s.orders
	}
	for _, s := range spans {
		if sum += s.orders; sum*100 >= total*p {
			return s.seconds
		}
	}
	return 0
}
