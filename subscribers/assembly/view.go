package assembly

import (
	"context"
	"embed"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/web"
)

//go:embed *.html
var pages embed.FS

var (
	overviewPage = web.Template(pages, "overview.html")
	buildPage    = web.Template(pages, "build.html")
	buildsPage   = web.Template(pages, "builds.html")
)

var statuses = []carbuild.Status{carbuild.Planned, carbuild.Started, carbuild.Finished, carbuild.Cancelled}

const (
	pageBuilds    = 50   // of /builds
	defaultBuilds = 100  // of /api/builds
	maxBuilds     = 1000 // of both
	shownDays     = 7    // of the plan
	shownBuilds   = 12   // of each stage
)

// list returns a page of the builds, the last changed first, at most length of them unless the request sets limit. It
// may set status=STATUS and order_id=UUID, too. A build that changes moves to the first page.
func list(r *http.Request, db *pgxpool.Pool, length int64) (found web.List[*row], err error) {
	l, err := web.NewListing(r, length, maxBuilds, new(time.Time), new(uuid.UUID))
	if err != nil {
		return found, err
	}
	query := r.URL.Query()
	if status := carbuild.Status(query.Get("status")); slices.Contains(statuses, status) {
		l.Where("status = ?", status)
	} else if status != "" {
		return found, web.Errorf(http.StatusBadRequest, "The parameter status takes planned, started, finished or cancelled.")
	}
	of, err := web.QueryUUID(query, "order_id")
	if err != nil {
		return found, err
	}
	if of != nil {
		l.Where("order_id = ?", of)
	}
	l.Find("build", "id", []string{"id", "order_id"})
	end, args := l.SQL("updated_at", "id")
	rows, _ := db.Query(r.Context(), `select `+columns+` from build`+end, args...)
	builds, err := pgx.CollectRows(rows, scanRow)
	return web.NewList(l, builds, func(b *row) []any { return []any{b.UpdatedAt.Time, b.ID} }), err
}

// apiList returns the same page without the columns that are not published.
func apiList(r *http.Request, db *pgxpool.Pool) (any, error) {
	found, err := list(r, db, defaultBuilds)
	builds := web.List[carbuild.Build]{Newer: found.Newer, Older: found.Older}
	for _, b := range found.Items {
		builds.Items = append(builds.Items, b.Build)
	}
	return builds, err
}

type buildList struct {
	web.List[*row]
	Status   string
	Statuses []carbuild.Status
	Builds   []shownBuild
}

func (f *factory) list(r *http.Request, db *pgxpool.Pool, now time.Time) (l buildList, err error) {
	c, err := f.readClock(r.Context(), db, now)
	if err != nil {
		return l, err
	}
	l.Status, l.Statuses = r.URL.Query().Get("status"), statuses
	l.List, err = list(r, db, pageBuilds)
	for _, b := range l.Items {
		l.Builds = append(l.Builds, shown(b, c, now))
	}
	return l, err
}

func some(ctx context.Context, db *pgxpool.Pool, where string, args ...any) ([]*row, error) {
	rows, _ := db.Query(ctx, `select `+columns+` from build where `+where, args...)
	return pgx.CollectRows(rows, scanRow)
}

type shownBuild struct {
	carbuild.Build
	Short, OrderShort, Words string
	Next                     time.Time // when it starts or finishes, by the real clock; zero: never
	Percent                  int64     // of its time on the line that has passed
}

func shown(b *row, c clock, now time.Time) shownBuild {
	s := shownBuild{Build: b.Build, Short: web.Short(b.ID), OrderShort: web.Short(b.OrderID), Words: order.CarName(b.Model, b.Options...)}
	if b.Due != nil {
		s.Next = c.when(*b.Due)
		if b.Status == carbuild.Started {
			s.Percent = int64(100 * (1 - min(max(b.Due.Sub(c.at(now)).Seconds()/onTheLine.Seconds(), 0), 1)))
		}
	}
	return s
}

const dayFormat = "Mon 2 Jan 2006"

type slotDay struct {
	Day      string
	Cars     int64
	Today    bool
	Capacity int64
}

type overview struct {
	Counts                     map[string]int64
	Clock                      time.Time // the factory's time
	Speed                      float64
	RealTime                   bool
	DayTakes                   string
	Capacity                   int64
	Days                       []slotDay
	Waiting                    int64     // cars planned for a later day
	Late                       time.Time // since when a build has been due that has neither started nor finished; zero: none has
	FreeDay                    string    // the first with a free slot, if it is not the first on which a car could start; else ""
	FreeAt                     time.Time // its beginning, by the real clock
	InProgress, Next, Finished []shownBuild
}

func (f *factory) readClock(ctx context.Context, db *pgxpool.Pool, now time.Time) (clock, error) {
	c, err := readClock(ctx, db)
	c, _ = f.from(c, now)
	return c, err
}

func (f *factory) overview(ctx context.Context, db *pgxpool.Pool, now time.Time) (*overview, error) {
	c, err := f.readClock(ctx, db, now)
	if err != nil {
		return nil, err
	}
	o := &overview{
		Counts: map[string]int64{}, Clock: c.at(now), Speed: c.speed, RealTime: c.speed == 1, Capacity: int64(f.Capacity),
		DayTakes: span(time.Duration(float64(24*time.Hour) / c.speed)),
	}
	rows, _ := db.Query(ctx, `select value, rows from row_count where relation = 'build'`)
	var status string
	var n int64
	if _, err = pgx.ForEachRow(rows, []any{&status, &n}, func() error { o.Counts[status] = n; return nil }); err != nil {
		return nil, err
	}
	if err := o.readDays(ctx, db); err != nil {
		return nil, err
	}
	if err := o.readTrouble(ctx, db, c, now); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		into  *[]shownBuild
		where string
	}{
		{&o.InProgress, `status = 'started' and due is not null order by due, id`},
		{&o.Next, `status = 'planned' and due is not null order by due, id`},
		{&o.Finished, `status = 'finished' order by updated_at desc, id desc`},
	} {
		found, err := some(ctx, db, part.where+` limit `+strconv.Itoa(shownBuilds))
		if err != nil {
			return nil, err
		}
		for _, b := range found {
			*part.into = append(*part.into, shown(b, c, now))
		}
	}
	return o, nil
}

func (o *overview) readDays(ctx context.Context, db *pgxpool.Pool) error {
	today := o.Clock.Format(time.DateOnly)
	rows, _ := db.Query(ctx, `
		select $1::date + i, coalesce(cars, 0) from generate_series(0, $2 - 1) as i left join slot on day = $1::date + i order by i`, today, shownDays)
	var day time.Time
	var cars int64
	if _, err := pgx.ForEachRow(rows, []any{&day, &cars}, func() error {
		o.Days = append(o.Days, slotDay{day.Format(dayFormat), cars, len(o.Days) == 0, max(o.Capacity, cars)})
		return nil
	}); err != nil {
		return err
	}
	return db.QueryRow(ctx, `select coalesce(sum(cars), 0)::bigint from slot where day >= $1::date + $2::int`, today, shownDays).Scan(&o.Waiting)
}

// late is how long a build may be due before the page says so.
const late = 30 * time.Second

// readTrouble reads what waits, and why.
func (o *overview) readTrouble(ctx context.Context, db *pgxpool.Pool, c clock, now time.Time) error {
	var due, free *time.Time
	err := db.QueryRow(ctx, `
		select (select min(due) from build where due is not null),
		       case when exists (select from slot where day = $1::date and cars >= $2) then (
			select day + 1 from slot where day >= $1::date and cars >= $2
			   and not exists (select from slot next where next.day = slot.day + 1 and cars >= $2) order by day limit 1) end`,
		c.at(now).Add(preparation).Format(time.DateOnly), o.Capacity).Scan(&due, &free)
	if err != nil {
		return err
	}
	if due != nil && c.when(*due).Before(now.Add(-late)) {
		o.Late = c.when(*due)
	}
	if free != nil {
		o.FreeDay, o.FreeAt = free.Format(dayFormat), c.when(*free)
	}
	return nil
}

func (f *factory) show(ctx context.Context, db *pgxpool.Pool, text string, now time.Time) (*shownBuild, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return nil, noBuild()
	}
	found, err := some(ctx, db, `id = $1`, id)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, noBuild()
	}
	c, err := f.readClock(ctx, db, now)
	if err != nil {
		return nil, err
	}
	s := shown(found[0], c, now)
	return &s, nil
}

func noBuild() error { return web.Errorf(http.StatusNotFound, "There is no such build.") }

// span formats a duration with a suitable unit: 8.6 s, 12 min, 3 h.
func span(d time.Duration) string {
	value, unit := d.Seconds(), "s"
	switch {
	case d >= 3*time.Hour:
		value, unit = d.Hours(), "h"
	case d >= 3*time.Minute:
		value, unit = d.Minutes(), "min"
	}
	return strconv.FormatFloat(math.Round(10*value)/10, 'f', -1, 64) + "\u00a0" + unit
}
