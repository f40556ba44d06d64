package check

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

func TestReaders(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "hundreds of processes")
	for _, command := range [][]string{{"python3", "../readers/reader.py"}, {"node", "../readers/reader.mjs"}} {
		t.Run(command[0], func(t *testing.T) {
			t.Parallel()
			if failed, said := proved(t, "", false, command...); failed > 0 {
				t.Error(said)
			}
		})
	}
}

// proved runs those tests whose names have only in them, or with once until one fails, if the language of the reader is
// installed.
func proved(t *testing.T, only string, once bool, command ...string) (failed int, said string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("needs %s", command[0])
	}
	var out bytes.Buffer
	r := reader{t.Context(), append(command, "URL", "DIR/copy"), once}
	failed, err := r.prove(&out, func(name string) bool { return strings.Contains(name, only) })
	if err != nil {
		t.Fatal(err)
	}
	return failed, out.String()
}

// A reader with a fault is caught.
func TestMutantsOfReaders(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "many processes")
	for name, x := range map[string]struct{ from, to, breaks string }{
		"positions are not checked": {`positions == list(range(position(asked["after"]) + 1, position(end) + 1)) and `, ``, "left out"},
		"tombstones are ignored":    {`if own.get("erased") or own.get("deleted"):`, `if own.get("erased"):`, "deletions"},
		"erased ids are forgotten":  {`"insert or ignore into erased select ? where ?"`, `"select ?, ?"`, "stays erased"},
		"the old copy stays":        {`"delete from entity", `, ``, "another history"},
		"410 is an error":           {`if e.code == 410:`, `if e.code == 411:`, "another history"},
		"the history is not sent":   {`.get("history")) from e`, `.get("nothing")) from e`, "behind a shared cache"},
		"the cursor is not stored":  {`"update progress set query = ?, etag = ?,`, `"update progress set query = coalesce(null and ?, query), etag = ?,`, "many pages"},
		"the ETag is not sent":      {`({"If-None-Match": etag} if etag else {})`, `{}`, "with the stored ETag"},
		"it stops after one page":   {`    while not up_to_date:`, `    for _ in range(1):`, "many pages"},
		"413 is an error":           {`if e.code == 413`, `if e.code == 414`, "too large"},
		"snapshots are taken for granted": {`            raise
        page = {"_datafeed": {}}`, `            raise
        raise`, "without snapshots"},
		"the snapshot is all":                       {`    while not up_to_date:`, `    while not (up_to_date or "&from=" in query):`, "change while"},
		"a lost snapshot is an error":               {`not query.startswith("snapshot=")`, `not query.startswith("snapshot=0&")`, "any more, and answers with 404"},
		"a lost snapshot goes on as a replay":       {`raise Gone(asked.get("history"))`, `return get(url, "after=0&limit=1000")`, "any more, and answers with a replay"},
		"the next page is not checked":              {` and ends != goes_on`, ``, "further on"},
		"what was passed is an error":               {`max(ids[-1], place.get("through", "")) > ids[0]`, `ids[-1] > ids[0]`, "passes newer entities"},
		"what was left out is not noticed":          {`to.get("from") == max(ids[-1], place.get("through", "")) > ids[0]`, `"from" in to`, "the last item of each page is left out"},
		"an empty page goes on":                     {`place.get("through", "")) > ids[0]`, `place.get("through", ""))`, "goes on with itself"},
		"pages may be of several snapshots":         {`asked["snapshot"] in ("0", head)`, `True`, "a snapshot of its own"},
		"the replay may begin anywhere":             {`to.get("after") == head`, `"after" in to`, "begins too late"},
		"the first page of a snapshot may be all":   {` and "snapshot" not in place` + "\n            end", "\n            end", "says that it is up to date"},
		"it begins again and again":                 {`if begun:`, `if False:`, "pages of the lost history"},
		"it goes on with a lost snapshot":           {`if e.code == 410:`, `if e.code == 410 and "from=" not in query:`, "the history changes after answer 2"},
		"entities that are erased are only gone":    {`own.get("erased", False)))` + "\n        if", `False))` + "\n        if", "stays erased"},
		"superseded is deleted":                     {`items if not item["_datafeed"].get("superseded")]`, `items if not item["_datafeed"].update(deleted="entity" not in item["_datafeed"])]`, "no deletion"},
		"superseded is an error":                    {`items if not item["_datafeed"].get("superseded")]`, `items]`, "nothing but superseded"},
		"the compaction is forgotten":               {`(query, etag, copy, later)`, `(query, etag, copy, "0")`, "killed before"},
		"the compaction is not confirmed":           {`- {"0", end}:`, `& {"0"} - {"0", end}:`, "the feed is longer then"},
		"only the last compaction is confirmed":     {`else {kept} - {later})`, `else set())`, "new history is compacted"},
		"a cache confirms the compaction":           {`&limit=1&history={end}`, `&limit=1`, "behind a shared cache"},
		"the end may be from before the compaction": {` or up_to_date and position(at) >= position(end)`, ``, "has the end of the feed from before"},
		"failures are no failures":                  {`    poll(db, url)` + "\n    for", "    try:\n        poll(db, url)\n    except Exception:\n        pass\n    for", "500"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile("../readers/reader.py")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(string(text), x.from) != 1 {
				t.Fatalf("reader.py has %q %d times", x.from, strings.Count(string(text), x.from))
			}
			file := filepath.Join(t.TempDir(), "mutant.py")
			if err := os.WriteFile(file, []byte(strings.Replace(string(text), x.from, x.to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			if failed, said := proved(t, x.breaks, true, "python3", file); failed == 0 {
				t.Errorf("it is not caught:\n%s", said)
			}
		})
	}
}
