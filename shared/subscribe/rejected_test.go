package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// putNameless publishes a version of the thing that breaks a constraint of the copy.
func (s *source) putNameless(t testing.TB, n int) {
	t.Helper()
	e := s.version(n)
	e.Payload = fmt.Appendf(nil, `{"id": %q, "version": %d, "name": null, "is": "<nameless>"}`, e.ID, e.Version)
	s.publish(t, []publish.Entry{e}...)
}

// listed returns the rejected entries as the API does.
func listed(t testing.TB, server *httptest.Server) (list []RejectedEntry) {
	t.Helper()
	resp, text := get(t, server.URL+"/subscriptions/things/rejected", "application/json")
	if err := json.Unmarshal([]byte(text), &list); err != nil || resp.StatusCode != 200 || !strings.HasPrefix(text, "[") {
		t.Fatalf("%s: %s: %v", resp.Status, text, err)
	}
	return list
}

// rejectedPage is how many entries a page of them holds.
const rejectedPage = 200

func retries(t testing.TB, address, want string) {
	t.Helper()
	if resp, text := ask(t, "POST", address, nil); resp.StatusCode != 200 || strings.TrimSpace(text) != want {
		t.Errorf("%s: %s: %s", address, resp.Status, text)
	}
}

func TestRejectedEntries(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	at := server.URL + "/subscriptions/things/rejected"
	if list := listed(t, server); len(list) != 0 {
		t.Errorf("rejected at first: %v", list)
	}
	s.put(t, 1, 3)
	for n := 4; n <= 7; n++ {
		s.putNameless(t, n)
	}
	s.put(t, 8, 9)
	c.mustPoll(t)
	c.stored(t) // as run does every second
	list := listed(t, server)
	if len(list) != 4 {
		t.Fatalf("rejected: %+v", list)
	}
	for i, e := range list {
		if n := 4 + i; e.EntityID != numbered(n) || e.Position != int64(n) || e.Version != 1 || e.Deleted || e.Attempts != 1 || e.Updated == nil ||
			!strings.Contains(e.Reason, "SQLSTATE 23502") || !strings.Contains(string(e.Entity), `"is":"<nameless>"`) || time.Since(e.RejectedAt).Abs() > time.Minute {
			t.Errorf("rejected: %+v", e)
		}
	}
	id := func(n int) string { return "/" + numbered(n).String() }

	if got := subscription(t, server.URL); got.RejectedEntries != 4 {
		t.Errorf("%+v", got)
	}
	_, page := get(t, server.URL+"/", browser)
	api, _ := get(t, server.URL+"/api/things", "*/*")
	if !strings.Contains(page, "Without 4 entries that could not be applied.") || !strings.HasSuffix(api.Header.Get("Datafeed-Copy"), "; rejected=4") {
		t.Errorf("those who read the copy are not told: %s: %s", api.Header.Get("Datafeed-Copy"), page)
	}

	// Still wrong: nothing changes but what is said of it.
	refused(t, "POST", at+id(4)+"/retry", nil, 422, "refused again", "SQLSTATE 23502")
	if e := listed(t, server)[0]; e.Attempts != 2 || e.RejectedAt.Before(list[0].RejectedAt) {
		t.Errorf("after another attempt: %+v", e)
	}
	// Applied, now that the copy takes it.
	exec(t, c.pool, `alter table thing alter column name drop not null`)
	retries(t, at+id(4)+"/retry", `{"applied":1,"rejected":0}`)
	var version int64
	if err := c.pool.QueryRow(t.Context(), `select version from thing where id = $1 and name is null`, numbered(4)).Scan(&version); err != nil || version != 1 {
		t.Errorf("version %d, %v", version, err)
	}
	refused(t, "POST", at+id(4)+"/retry", nil, 404, "No version of this entity is rejected.")
	// Dropped.
	if resp, text := ask(t, "POST", at+id(6)+"/drop", nil); resp.StatusCode != 204 || text != "" {
		t.Errorf("%s: %s", resp.Status, text)
	}
	if got := subscription(t, server.URL); got.RejectedEntries != 2 {
		t.Errorf("%+v", got)
	}
	for _, path := range []string{id(6) + "/drop", id(6) + "/retry", "/nonsense/drop", "/nonsense/retry"} {
		refused(t, "POST", at+path, nil, 404)
	}
	// A later good version clears it.
	s.put(t, 5, 7)
	c.mustPoll(t)
	c.stored(t)
	if list := listed(t, server); len(list) != 0 || subscription(t, server.URL).RejectedEntries != 0 {
		t.Errorf("rejected: %+v", list)
	}
}

func TestRetryOfAll(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	at := server.URL + "/subscriptions/things/rejected"
	s.put(t, 1, 9)
	c.mustPoll(t)
	exec(t, c.pool, `create table kept (id uuid references thing)`)
	exec(t, c.pool, `insert into kept select id from thing where id in ($1, $2)`, numbered(1), numbered(2))
	s.remove(t, 1)
	s.remove(t, 2)
	s.putNameless(t, 10)
	s.put(t, 11, 11)
	c.mustPoll(t)
	if list := listed(t, server); len(list) != 3 || !list[0].Deleted || string(list[0].Entity) != "null" || list[2].Deleted {
		t.Fatalf("rejected: %+v", list)
	}
	retries(t, at+"/retry", `{"applied":0,"rejected":3}`)
	exec(t, c.pool, `delete from kept where id = $1`, numbered(1))
	retries(t, at+"/retry", `{"applied":1,"rejected":2}`)
	exec(t, c.pool, `truncate kept`)
	exec(t, c.pool, `alter table thing alter column name drop not null`)
	retries(t, at+"/retry", `{"applied":2,"rejected":0}`)
	exec(t, c.pool, `update thing set name = '' where name is null`)
	retries(t, at+"/retry", `{"applied":0,"rejected":0}`)
	if things := c.things(t); len(things) != 9 || len(listed(t, server)) != 0 {
		t.Errorf("%v, rejected %v", things, listed(t, server))
	}
}

// What is rejected when the feed is read again from its start outranks the row that the copy had before.
func TestRetryAfterReadingAnew(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	at := server.URL + "/subscriptions/things"
	s.put(t, 1, 5)
	c.mustPoll(t)
	exec(t, c.pool, `update thing set version = 9, name = 'of before' where id = $1`, numbered(1))
	exec(t, c.pool, `alter table thing add constraint odd check (name not like 'thing 1,%') not valid`)
	change(t, "POST", at+"/resync", 202, nil)
	c.mustPoll(t)
	if list := listed(t, server); len(list) != 1 || list[0].Version != 1 || list[0].EntityID != numbered(1) {
		t.Fatalf("rejected: %+v", list)
	}
	refused(t, "POST", at+"/rejected/"+numbered(1).String()+"/retry", nil, 422, "SQLSTATE 23514")
	exec(t, c.pool, `alter table thing drop constraint odd`)
	retries(t, at+"/rejected/"+numbered(1).String()+"/retry", `{"applied":1,"rejected":0}`)
	c.wantUpToDate(t, s)
}

func TestPageOfRejectedEntries(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	at := server.URL + "/subscriptions/things/rejected"
	if _, text := get(t, at, browser); !strings.Contains(text, "None: everything that came is in the copy.") || strings.Contains(text, "/retry") {
		t.Errorf("the empty page: %s", text)
	}
	s.put(t, 1, 3)
	s.putNameless(t, 4)
	s.putNameless(t, 5)
	c.mustPoll(t)
	c.stored(t)
	_, text := get(t, at, browser)
	for _, part := range []string{
		"Rejected entries of things", numbered(4).String(), "SQLSTATE 23502", `&#34;is&#34;: &#34;&lt;nameless&gt;&#34;`, "<details>",
		"/" + numbered(5).String() + "/retry", "/" + numbered(5).String() + "/drop", `action="/subscriptions/things/rejected/retry"`,
	} {
		if !strings.Contains(text, part) {
			t.Errorf("without %s: %s", part, text)
		}
	}
	if _, text := get(t, server.URL+"/subscriptions", browser); !strings.Contains(text, `<a href="/subscriptions/things/rejected">2 entries that could not be applied</a>`) {
		t.Errorf("no way there: %s", text)
	}
	sends := func(path, notice string) {
		t.Helper()
		resp, text := ask(t, "POST", at+path, url.Values{})
		if resp.StatusCode != 303 || !strings.HasPrefix(resp.Header.Get("Location"), "/subscriptions/things/rejected?") {
			t.Fatalf("%s: %s, %s: %s", path, resp.Status, resp.Header.Get("Location"), text)
		}
		if _, text := get(t, server.URL+resp.Header.Get("Location"), browser); !strings.Contains(text, `<p class="banner done" role="status">`+notice) {
			t.Errorf("%s: without %s: %s", path, notice, text)
		}
	}
	refused(t, "POST", at+"/"+numbered(4).String()+"/retry", url.Values{}, 422, `<p class="banner bad" role="alert">It was refused again: `, "2 attempts")
	sends("/retry", "Tried again: 2 entries refused again.")
	sends("/"+numbered(5).String()+"/drop", "Dropped.")
	exec(t, c.pool, `alter table thing alter column name drop not null`)
	sends("/"+numbered(4).String()+"/retry", "Tried again: 1 entry applied.")

	// More than one page.
	exec(t, c.pool, `
		insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason)
		select 'test', 'things', gen_random_uuid(), 1, n / 2, now(), '{}', 'a test' from generate_series(0, $1) n`, 2*rejectedPage)
	seen := map[uuid.UUID]bool{}
	for next, pages := at, 0; next != ""; pages++ {
		resp, text := get(t, next, "application/json")
		var list []RejectedEntry
		if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) == 0 || len(list) > rejectedPage || pages > 2 {
			t.Fatalf("page %d, %s: %s: %v", pages, next, text, err)
		}
		for _, e := range list {
			seen[e.EntityID] = true
		}
		link, more, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
		if next = ""; more == `; rel="next"` {
			next = server.URL + link
		}
	}
	if len(seen) != 2*rejectedPage+1 {
		t.Errorf("the pages hold %d entries of %d", len(seen), 2*rejectedPage+1)
	}
	if _, text := get(t, at, browser); !strings.Contains(text, `<a rel="next" href="/subscriptions/things/rejected?after=`) {
		t.Error("no link to the next page")
	}
	found := func(query string, wanted ...uuid.UUID) {
		t.Helper()
		var list []RejectedEntry
		if _, text := get(t, at+query, "application/json"); json.Unmarshal([]byte(text), &list) != nil || len(list) != len(wanted) || len(list) > 0 && list[0].EntityID != wanted[0] {
			t.Errorf("%s finds %s", query, text)
		}
	}
	exec(t, c.pool, `update rejected_entry set entity_id = $1 where entity_id = (select max(entity_id::text)::uuid from rejected_entry)`, numbered(77))
	found("?id="+numbered(77).String(), numbered(77))
	found("?id=" + numbered(78).String())
	if _, text := get(t, at+"?id="+numbered(77).String(), browser); strings.Count(text, "<li class=\"entry\"") != 1 || !strings.Contains(text, `id="entity-`+numbered(77).String()) || !strings.Contains(text, `name="id" value="`+numbered(77).String()) {
		t.Errorf("the search: %s", text)
	}
	exec(t, c.pool, `
		insert into rejected_entry (service, feed, entity_id, version, position, updated, reason, checked)
		select service, feed, entity_id, version + 1, position + 1, updated, reason, not checked from rejected_entry where entity_id = $1`, numbered(77))
	_, text = get(t, at+"?id="+numbered(77).String(), browser)
	ids := regexp.MustCompile(` id="[^"]*"`).FindAllString(text, -1)
	slices.Sort(ids)
	if strings.Count(text, "<li class=\"entry\"") != 2 || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Errorf("two versions of an entity: %q", ids)
	}
	if _, text := get(t, at+"?id="+numbered(78).String(), browser); !strings.Contains(text, "No version of this entity is rejected.") || !strings.Contains(text, ">All rejected entries<") {
		t.Errorf("a search in vain: %s", text)
	}
	refused(t, "GET", at+"?id=x", nil, 400, "id takes")
	if resp, text := get(t, at+"?id=x", browser); resp.StatusCode != 400 || !strings.Contains(text, `name="id" value="x"`) || !strings.Contains(text, "The parameter id takes an id") {
		t.Errorf("%s: %s", resp.Status, text)
	}
	for _, after := range []string{"1", "x,y", "1,x", "," + uuid.NewString()} {
		refused(t, "GET", at+"?after="+after, nil, 400, "after takes")
	}
}

// Whatever retries and polls at the same time, two never apply at once.
func TestRetriesAndPollsTakeTurns(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	s.put(t, 1, 3)
	s.putNameless(t, 4)
	c.mustPoll(t)
	exec(t, c.pool, `alter table thing alter column name drop not null`)

	var inside, most atomic.Int32
	entered, goOn := make(chan struct{}, 2), make(chan struct{})
	c.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error {
		most.Store(max(most.Load(), inside.Add(1)))
		defer inside.Add(-1)
		entered <- struct{}{}
		<-goOn
		return copyThings(ctx, tx, b)
	}
	s.put(t, 5, 5)
	polled := make(chan error, 1)
	go func() { polled <- c.poll(context.Background()) }()
	<-entered // the poll is in the middle of a page
	retried := make(chan error, 1)
	go func() {
		_, _, err := c.quarantine.retry(context.Background(), numbered(4))
		retried <- err
	}()
	eventually(t, "the retry waits for the poll's lock", func() bool {
		var waiting int
		err := c.pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting > 0
	})
	close(goOn)
	if err := <-polled; err != nil {
		t.Fatal(err)
	}
	if err := <-retried; err != nil {
		t.Fatal(err)
	}
	if most.Load() != 1 || len(listed(t, server)) != 0 {
		t.Errorf("%d applied at once; rejected %v", most.Load(), listed(t, server))
	}
	var there bool
	if err := c.pool.QueryRow(t.Context(), `select exists (select from thing where id = $1)`, numbered(4)).Scan(&there); err != nil || !there {
		t.Errorf("what was tried again is not in the copy: %v", err)
	}
}

// A retry by hand counts each of an entity's two rejected versions once.
func TestRetryOfTwoVersions(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	for path, want := range map[string]string{"/retry": `{"applied":1,"rejected":1}`, "/" + numbered(1).String() + "/retry": `{"applied":1,"rejected":1}`} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			c := newCopier(t, s)
			c.Check = func(e feed.Entry) error {
				if strings.Contains(string(e.Entity), `"bad"`) {
					return errors.New("name is no name")
				}
				return nil
			}
			server := c.site(t, routeThings)
			s.put(t, 1, 3)
			c.mustPoll(t)
			c.bans(t, "^later$")
			s.rename(t, 1, "later", 5, "good")
			c.mustPoll(t)
			s.rename(t, 1, "bad", 6, "good")
			c.mustPoll(t)
			exec(t, c.pool, `alter table thing drop constraint banned`)
			resp, text := ask(t, "POST", server.URL+"/subscriptions/things/rejected"+path, nil)
			if resp.StatusCode != 200 || strings.TrimSpace(text) != want || c.things(t)[numbered(1)].Name != "later" || c.stored(t).rejected != 1 {
				t.Errorf("%s: %s, %d are rejected, the copy has %v", resp.Status, text, c.stored(t).rejected, c.things(t))
			}
			// Each is dropped for itself.
			at := server.URL + "/subscriptions/things/rejected/" + numbered(1).String() + "/drop"
			for _, x := range []struct {
				version string
				status  int
			}{{"2", 404}, {"x", 400}, {"3", 204}} {
				if resp, text := ask(t, "POST", at+"?version="+x.version, nil); resp.StatusCode != x.status {
					t.Errorf("drop of version %s: %s: %s", x.version, resp.Status, text)
				}
			}
			if n := c.stored(t).rejected; n != 0 {
				t.Errorf("%d are rejected in the end", n)
			}
		})
	}
}

// After another history, the version after a dropped one is applied, though the lost history had a later one.
func TestDropAfterAnotherHistory(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many databases")
	s := newSource(t)
	c := newCopier(t, s)
	server := c.site(t, routeThings)
	for range 5 {
		s.put(t, 1, 3)
	}
	c.mustPoll(t)
	s.begin(t)
	s.put(t, 1, 3)
	exec(t, c.pool, `alter table thing add constraint banned check (name <> 'thing 1, 0 published') not valid`)
	c.mustPoll(t)
	resp, text := ask(t, "POST", server.URL+"/subscriptions/things/rejected/"+numbered(1).String()+"/drop", nil)
	if resp.StatusCode != 204 {
		t.Fatalf("%s: %s", resp.Status, text)
	}
	if _, has := c.things(t)[numbered(1)]; has {
		t.Error("the row of the lost history is there")
	}
	s.put(t, 1, 3)
	c.mustPoll(t)
	c.wantUpToDate(t, s)
}

// A page of rejected entries has no more than some megabytes, and all pages have each of them once.
func TestLargeRejectedEntries(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	c := newCopier(t, s)
	s.put(t, 1, 1)
	c.mustPoll(t)
	exec(t, c.pool, `
		insert into rejected_entry (service, feed, entity_id, version, position, updated, entity, reason)
		select $1, 'things', gen_random_uuid(), 1, n, now(), convert_to('{"text":"' || repeat('x', 250000) || '"}', 'UTF8'), 'large' from generate_series(2, 41) n`, c.service)
	c.stored(t)
	server := c.site(t, routeThings)
	seen := map[string]bool{}
	pages := 0
	for at := "/subscriptions/things/rejected"; at != ""; pages++ {
		resp, text := get(t, server.URL+at, "application/json")
		if len(text) > 5<<20 {
			t.Errorf("%d bytes", len(text))
		}
		var list []struct {
			ID string `json:"entity_id"`
		}
		if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) == 0 {
			t.Fatalf("%d entries, %v", len(list), err)
		}
		for _, e := range list {
			seen[e.ID] = true
		}
		at, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	}
	if len(seen) != 40 || pages != 3 {
		t.Errorf("%d entries on %d pages", len(seen), pages)
	}
}
