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
			if failed, said := proved(t, "", command...); failed > 0 {
				t.Error(said)
			}
		})
	}
}

// proved runs those tests whose names have only in them, if the language of the reader is installed.
func proved(t *testing.T, only string, command ...string) (failed int, said string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("needs %s", command[0])
	}
	var out bytes.Buffer
	r := reader{t.Context(), append(command, "URL", "DIR/copy")}
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
		"positions are not checked": {`positions == list(range(begin + 1, end + 1)) and `, ``, "left out"},
		"tombstones are ignored":    {`if own.get("erased") or own.get("deleted"):`, `if own.get("erased"):`, "deletions"},
		"erased ids are forgotten":  {`"insert or ignore into erased values (?)"`, `"select ?"`, "stays erased"},
		"the old copy stays":        {`db.execute("delete from entity")`, `pass`, "another history"},
		"410 is an error":           {`if e.code == 410:`, `if e.code == 411:`, "another history"},
		"the history is not sent":   {`(f"&history={history[0]}" if history else "")`, `""`, "behind a shared cache"},
		"the cursor is not stored":  {`"update progress set query = ?, etag = ?", (query, etag)`, `"update progress set etag = ?", (etag,)`, "many pages"},
		"the ETag is not sent":      {`({"If-None-Match": etag} if etag else {})`, `{}`, "with the stored ETag"},
		"it stops after one page":   {`        if up_to_date:`, `        if True:`, "many pages"},
		"snapshots are taken for granted": {`            raise
        page = {"_datafeed": {}}`, `            raise
        raise`, "without snapshots"},
		"the snapshot is all":      {`        if up_to_date:`, `        if up_to_date or "&from=" in query:`, "change while"},
		"failures are no failures": {`    poll(db, url)` + "\n    for", "    try:\n        poll(db, url)\n    except Exception:\n        pass\n    for", "500"},
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
			if failed, said := proved(t, x.breaks, "python3", file); failed == 0 {
				t.Errorf("it is not caught:\n%s", said)
			}
		})
	}
}
