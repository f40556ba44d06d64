package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestListing(t *testing.T) {
	t.Parallel()
	const id = "0190a5f3-7c00-7000-8000-0123456789ab"
	for query, want := range map[string]string{
		"":                  " order by at desc, id desc limit 51",
		"limit=1000":        " order by at desc, id desc limit 1001",
		"q=&before=&limit=": " order by at desc, id desc limit 51",
		"before=2026-11-23T08:00:00.000001Z," + id: " where (at, id) < ($1, $2) order by at desc, id desc limit 51",
		"after=2026-11-23T08:00:00Z," + id:         " where (at, id) > ($1, $2) order by at, id limit 51",
		"q=" + strings.ToUpper(id):                 " where id in (select id from t where id = $1 union all select id from t where of_id = $2) order by at desc, id desc limit 51",
		"q=0190a5f3-7c": " where id in ((select id from t where id between $1 and $2 order by id limit $3) union all " +
			"(select id from t where of_id between $4 and $5 order by of_id limit $6)) order by at desc, id desc limit 51",
		"q=0190A5F3": " where id in ((select id from t where id between $1 and $2 order by id limit $3) union all " +
			"(select id from t where of_id between $4 and $5 order by of_id limit $6) union all select id from t where right(id::text, 8) = $7) order by at desc, id desc limit 51",
		"q=0190a5f": "", "q=battery-module": "", "q=" + id + "0": "", "q=--------": "", "q=7": "", "limit=0": "", "limit=1001": "", "limit=1&limit=1": "", "before=1": "", "before=," + id: "",
		"before=2026-11-23T08:00:00Z," + id + "&after=2026-11-23T08:00:00Z," + id: "",
	} {
		l, err := NewListing(httptest.NewRequest(http.MethodGet, "/t?"+query, nil), 50, 1000, new(time.Time), new(uuid.UUID))
		if err != nil {
			if want != "" || StatusOf(err) != http.StatusBadRequest || !strings.Contains(err.Error(), "The parameter") {
				t.Errorf("%s: %v", query, err)
			}
			continue
		}
		l.Find("t", "id", []string{"id"}, "of_id")
		if got, _ := l.SQL("at", "id"); got != want {
			t.Errorf("%s: %s", query, got)
		}
	}
	for query, want := range map[string]int64{"q=12": 12, "q=000012": 12, "q=12345678": 0} {
		l, err := NewListing(httptest.NewRequest(http.MethodGet, "/t?"+query, nil), 50, 1000, new(int64))
		if err != nil || l.Number != want {
			t.Errorf("%s: %+v, %v", query, l, err)
		}
	}
	l, err := NewListing(httptest.NewRequest(http.MethodGet, "/t?status=sent&limit=2&before=9", nil), 50, 1000, new(int64))
	if err != nil {
		t.Fatal(err)
	}
	list := NewList(l, []int64{8, 7, 6}, func(n int64) []any { return []any{n} })
	if got, want := list.Links(), `</t?before=7&limit=2&status=sent>; rel="next", </t?after=8&limit=2&status=sent>; rel="prev"`; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}
