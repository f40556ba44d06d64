package cache

import (
	"context"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/subscribe"
	"github.com/edison-cars/data-feeds/sql"
)

// subscriber runs one that reads through the cache.
func (tr *tier) subscriber(t *testing.T, schedule string, wait time.Duration) *subscribe.Subscriber {
	t.Helper()
	pool := pgtest.New(t, sql.Migrations("subscribe"))
	if _, err := pool.Exec(t.Context(), `create table thing (id uuid primary key, version bigint not null, name text not null)`); err != nil {
		t.Fatal(err)
	}
	s, err := subscribe.New(t.Context(), pool, subscribe.Options{Name: "test", Wait: wait, PageSize: 100}, subscribe.Feed{
		Name: feedName, URL: tr.url + "/feeds/" + feedName, Schedule: schedule, Table: "thing", Columns: []string{"name"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-stopped
	})
	if err := s.CaughtUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// Subscribers that wait behind the cache share their requests, and have new entries at once, though some come to a wait
// that is about to end.
func TestSubscribersWait(t *testing.T) {
	each(t, func(t *testing.T, kind Kind) {
		t.Parallel()
		tr := open(t, kind, 150, feedhttp.Options{})
		var all []*subscribe.Subscriber
		for range 4 {
			all = append(all, tr.subscriber(t, "0 0 1 */6 *", 10*time.Second))
			time.Sleep(1500 * time.Millisecond)
		}
		tr.take()
		time.Sleep(21 * time.Second)
		if asked, of := tr.take(); asked > 12 { // of 8 to 12 requests that are sent
			t.Errorf("%d requests reached the source while nothing was new: %v", asked, of)
		}
		for n := range 5 {
			time.Sleep(2 * time.Second)
			tr.append(t, 1)
			for _, s := range all {
				waitFor(t, "the entry is copied", func() bool { return s.Status()[0].Cursor == tr.head(t) })
				if state := s.Status()[0].State; state != subscribe.Fresh {
					t.Errorf("the copy is %s", state)
				}
			}
			if asked, of := tr.take(); asked > 8 {
				t.Errorf("%d: %d requests reached the source for an entry: %v", n, asked, of)
			}
		}
	})
}

// A cache that answers for a source that is down is no source: the copy is as old as its answer.
func TestStaleAnswer(t *testing.T) {
	t.Parallel()
	tr := open(t, Nginx, 150, feedhttp.Options{}, "proxy_pass_header Date;", "proxy_pass_header Date; proxy_cache_use_stale error timeout http_502;")
	s := tr.subscriber(t, "@every 1s", 0)
	if status := s.Status()[0]; status.State != subscribe.Fresh {
		t.Fatalf("%+v", status)
	}
	down := time.Now()
	tr.server.Close()
	time.Sleep(5 * time.Second)
	if status := s.Status()[0]; status.LastError != nil || status.AsOf == nil || status.AsOf.After(down) {
		t.Errorf("the source is down since %v: %+v", down, status)
	}
}
