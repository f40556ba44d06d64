package feedhttp

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/publish"
)

// A snapshotPage is a page of a snapshot.
type snapshotPage struct {
	Next     string `json:"next_url"`
	Datafeed struct {
		Snapshot, Cursor, Next, Head *string
		Sealed                       *bool
		UpToDate                     *bool `json:"up_to_date"`
	} `json:"_datafeed"`
	Items []struct {
		ID       string
		Datafeed struct {
			Position, Version, First int64
			Deleted, Erased          bool
			Entity                   json.RawMessage
		} `json:"_datafeed"`
	}
}

// snapshotAt asks for a page of a snapshot.
func snapshotAt(t testing.TB, server *httptest.Server, url string, header ...string) (p snapshotPage) {
	t.Helper()
	resp, body := get(t, server, "GET", strings.TrimPrefix(url, publicURL), header...)
	if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != 200 {
		t.Fatal(url, resp.StatusCode, err, body)
	}
	return p
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	entries := lives(230)
	appendAll(t, l, entries)
	server := serve(t, l)
	type state struct {
		position, version, first int64
		deleted                  bool
	}
	want := map[uuid.UUID]*state{}
	for i, e := range entries {
		if want[e.ID] == nil {
			want[e.ID] = &state{first: int64(i + 1)}
		}
		s := want[e.ID]
		s.position, s.version, s.deleted = int64(i+1), e.Version, e.Payload == nil
	}
	head := cursorAt(t, pool, 230).String()
	var ids []string
	pages := 0
	for url := "/feeds/things?snapshot=0&limit=50"; strings.Contains(url, "snapshot="); pages++ {
		p := snapshotAt(t, server, url)
		if d := p.Datafeed; d.Snapshot == nil || *d.Snapshot != head || d.Cursor != nil || d.Sealed != nil || d.UpToDate != nil || d.Head != nil || p.Next != "" {
			t.Fatalf("%s has %+v", url, d)
		}
		for _, item := range p.Items {
			id := strings.TrimPrefix(item.ID, "urn:uuid:")
			d := item.Datafeed
			if got := (state{d.Position, d.Version, d.First, d.Deleted}); want[uuid.MustParse(id)] == nil || got != *want[uuid.MustParse(id)] {
				t.Errorf("%s is %+v, not %+v", id, got, want[uuid.MustParse(id)])
			}
			ids = append(ids, id)
		}
		if url = *p.Datafeed.Next; pages == 0 && url != publicURL+"/feeds/things?snapshot="+head+"&from="+ids[49]+"&limit=50" {
			t.Errorf("the first page is followed by %s", url)
		}
		if !strings.Contains(url, "snapshot=") && url != publicURL+"/feeds/things?after="+head+"&limit=50" {
			t.Errorf("the last page is followed by %s", url)
		}
	}
	if n := len(want); len(ids) != n || pages != (n+49)/50 || !slices.IsSorted(ids) {
		t.Errorf("%d entities of %d on %d pages, sorted: %t", len(ids), n, pages, slices.IsSorted(ids))
	}
}

// A page that is full and has no entity behind it is the last one.
func TestSnapshotOfFullPages(t *testing.T) {
	t.Parallel()
	pool := database(t)
	l := openLog(t, pool)
	server := serve(t, l)
	if p := snapshotAt(t, server, "/feeds/things?snapshot=0"); *p.Datafeed.Snapshot != "0" || *p.Datafeed.Next != publicURL+"/feeds/things?after=0&limit=100" || len(p.Items) > 0 {
		t.Errorf("of an empty feed: %+v", p)
	}
	appendAll(t, l, []publish.Entry{thing(numbered(1), 1), thing(numbered(2), 1)})
	for limit, want := range map[string]bool{"1": true, "2": false, "3": false} {
		p := snapshotAt(t, server, "/feeds/things?snapshot=0&limit="+limit)
		if more := strings.Contains(*p.Datafeed.Next, "snapshot="); more != want {
			t.Errorf("limit %s: %s", limit, *p.Datafeed.Next)
		}
	}
}
