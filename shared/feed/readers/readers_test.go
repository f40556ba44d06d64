// Package readers has small readers of a feed in other languages, and their test.
package readers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/sql"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A source is a real one. fail, if set, answers a request in its place, and then returns true.
type source struct {
	*httptest.Server
	pool     *pgxpool.Pool
	log      *publish.Log
	versions map[uuid.UUID]int64
	truth    []map[string]any // after each position

	mu     sync.Mutex
	engine http.Handler
	fail   func(w http.ResponseWriter, r *http.Request) bool
	status []int // of its answers
}

func newSource(t *testing.T) *source {
	t.Helper()
	s := &source{pool: pgtest.New(t, sql.Migrations("publish")), versions: map[uuid.UUID]int64{}, truth: []map[string]any{{}}}
	if _, err := s.pool.Exec(t.Context(), `select feed_create('things')`); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	t.Cleanup(func() { s.log.Close() })
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		seen := httptest.NewRecorder()
		if s.fail == nil || !s.fail(seen, r) {
			s.engine.ServeHTTP(seen, r)
		}
		s.status = append(s.status, seen.Code)
		maps.Copy(w.Header(), seen.Header())
		w.WriteHeader(seen.Code)
		_, _ = w.Write(seen.Body.Bytes())
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *source) open(t *testing.T) {
	t.Helper()
	if s.log != nil {
		s.log.Close()
	}
	var err error
	if s.log, err = publish.Open(context.Background(), s.pool, publish.Options{}); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine = feedhttp.New(s.log, feedhttp.Options{Name: "Test", PublicURL: "http://source.example"}, feed.Description{
		Name: "things", Title: "Things", Text: "Things.", ID: "tag:example.com,2026:things",
	})
}

// put publishes a new version of the thing, delete and erase publish that it is gone.
func (s *source) put(t *testing.T, n int)    { s.change(t, n, true, false) }
func (s *source) delete(t *testing.T, n int) { s.change(t, n, false, false) }
func (s *source) erase(t *testing.T, n int)  { s.change(t, n, false, true) }

func (s *source) change(t *testing.T, n int, put, erase bool) {
	t.Helper()
	id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n))
	s.versions[id]++
	version := s.versions[id]
	e := publish.Entry{ID: id, Version: version, Updated: time.Date(2026, 1, 1, 0, 0, int(version), 0, time.UTC)}
	now := maps.Clone(s.truth[len(s.truth)-1])
	delete(now, id.String())
	if put {
		e.Payload, _ = json.Marshal(map[string]any{"id": id, "version": version, "name": fmt.Sprintf("thing %d “ü”, %d", n, len(s.truth)), "of": []any{nil, true, 1.5}})
		var entity any
		if err := json.Unmarshal(e.Payload, &entity); err != nil {
			t.Fatal(err)
		}
		now[id.String()] = entity
	}
	err := s.log.InTx(t.Context(), func(tx *publish.Tx) error {
		if erase {
			tx.Erase("things", e.ID, e.Version, e.Updated)
		} else {
			tx.Append("things", e)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.truth = append(s.truth, now)
}

// restore takes the source back to a position, as a restore of a backup does.
func (s *source) restore(t *testing.T, position int) {
	t.Helper()
	_, err := s.pool.Exec(t.Context(), `
		with gone as (delete from feed_entry where position > $1)
		update feed set (position, digest) = (select position, digest from feed_entry where position = $1)`, position)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := s.pool.Query(t.Context(), `select entity_id, max(version) from feed_entry group by entity_id`)
	if err != nil {
		t.Fatal(err)
	}
	clear(s.versions)
	for rows.Next() {
		var id uuid.UUID
		var version int64
		if err := rows.Scan(&id, &version); err != nil {
			t.Fatal(err)
		}
		s.versions[id] = version
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	s.truth = s.truth[:position+1]
	s.open(t)
}

// statuses returns those of the answers since the last call.
func (s *source) statuses() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.status
	s.status = nil
	return status
}

func (s *source) setFail(fail func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// Each reader ends with what the source has, each run in a process of its own.
func TestReaders(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{{"python3", "reader.py"}, {"node", "reader.mjs"}} {
		t.Run(command[1], func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skipf("needs %s", command[0])
			}
			s := newSource(t)
			file := filepath.Join(t.TempDir(), "copy")
			run := func() (out []byte, err error) {
				var stdout, stderr bytes.Buffer
				cmd := exec.CommandContext(t.Context(), command[0], command[1], s.URL+"/feeds/things", file)
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				if err := cmd.Run(); err != nil {
					return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
				}
				return stdout.Bytes(), nil
			}
			erased := ""
			equal := func() {
				t.Helper()
				out, err := run()
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]any{}
				for line := range strings.Lines(string(out)) {
					var row struct {
						ID     string
						Entity any
					}
					if err := json.Unmarshal([]byte(line), &row); err != nil {
						t.Fatal(err)
					}
					got[row.ID] = row.Entity
				}
				want := maps.Clone(s.truth[len(s.truth)-1])
				delete(want, erased)
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("the copy has %d things, the source %d, or they differ", len(got), len(want))
				}
			}
			wantStatuses := func(want ...int) {
				t.Helper()
				if got := s.statuses(); !reflect.DeepEqual(got, want) {
					t.Errorf("the answers were %v, not %v", got, want)
				}
			}
			equal() // an empty feed
			for n := range 1100 {
				s.put(t, n%400)
			}
			s.statuses()
			equal()
			wantStatuses(200, 200)
			equal()
			wantStatuses(200) // this page's ETag is not known yet
			equal()
			wantStatuses(304)
			for n := range 50 {
				s.delete(t, n)
			}
			s.put(t, 7)
			equal()

			s.setFail(func(w http.ResponseWriter, r *http.Request) bool {
				http.Error(w, "not now", http.StatusServiceUnavailable)
				return true
			})
			if _, err := run(); err == nil {
				t.Error("a source that is down is no error")
			}
			for _, bad := range []func(page map[string]any){
				func(page map[string]any) { page["items"] = page["items"].([]any)[1:] },
				func(page map[string]any) { page["items"] = append(page["items"].([]any), page["items"].([]any)[0]) },
				func(page map[string]any) { page["items"] = []any{} },
			} {
				s.setFail(func(w http.ResponseWriter, r *http.Request) bool {
					r.Header.Del("Accept-Encoding")
					answer := httptest.NewRecorder()
					s.engine.ServeHTTP(answer, r)
					var page map[string]any
					if err := json.Unmarshal(answer.Body.Bytes(), &page); err != nil || answer.Code != http.StatusOK {
						t.Errorf("%d: %v", answer.Code, err)
					}
					bad(page)
					_ = json.NewEncoder(w).Encode(page)
					return true
				})
				s.put(t, 8)
				if out, err := run(); err == nil {
					t.Errorf("a page that does not continue is no error: %s", out)
				}
			}
			s.setFail(nil)
			equal()

			s.erase(t, 20)
			equal()
			erased = uuid.NewSHA1(uuid.NameSpaceOID, []byte("20")).String() // whatever a restored source says of it
			for range 3 {                                                   // histories that part at random
				at := 1 + rand.IntN(len(s.truth)-2)
				s.restore(t, at)
				for range 5 {
					s.put(t, 1000+rand.IntN(50))
				}
				s.setFail(nil)
				equal()
				s.put(t, 1001)
				equal()
			}
		})
	}
}
