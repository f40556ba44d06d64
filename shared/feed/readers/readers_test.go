// Package readers has small readers of a feed in other languages, and their test.
package readers

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed/check"
)

var readers = [][]string{{"python3", "reader.py"}, {"node", "reader.mjs"}}

func TestReaders(t *testing.T) {
	t.Parallel()
	for _, command := range readers {
		t.Run(command[1], func(t *testing.T) {
			t.Parallel()
			if failed, said := prove(t, command...); failed > 0 {
				t.Error(said)
			}
		})
	}
}

// prove proves a reader, if its language is installed.
func prove(t *testing.T, command ...string) (failed int, said string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("needs %s", command[0])
	}
	var out bytes.Buffer
	failed, err := check.Prove(t.Context(), append(command, "URL", "DIR/copy"), &out)
	if err != nil {
		t.Fatal(err)
	}
	return failed, out.String()
}

// A reader with a fault is caught.
func TestMutants(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct{ from, to, breaks string }{
		"positions are not checked":         {`if positions != list(range(begin + 1, end + 1)) or`, `if`, "left out"},
		"an empty page may move the cursor": {` or not positions and place["cursor"] != cursor`, ``, "an empty page in vain"},
		"versions are not compared":         {`where version < excluded.version"`, `"`, "not caught by a source that keeps its order"},
		"tombstones are ignored":            {`if own.get("erased") or own.get("deleted"):`, `if own.get("erased"):`, "deletions"},
		"erased ids are forgotten":          {`"insert or ignore into erased values (?)"`, `"select ?"`, "stays erased"},
		"the old copy stays":                {`db.execute("delete from entity")`, `pass`, "another history"},
		"410 is an error":                   {`if e.code == 410:`, `if e.code == 411:`, "another history"},
		"the history is not sent":           {`({"history": history} if history else {})`, `{}`, "behind a shared cache"},
		"the cursor is not stored":          {`(place["cursor"], etag))`, `(cursor, etag))`, "many pages"},
		"the ETag is not sent":              {`({"If-None-Match": etag} if etag else {})`, `{}`, "with the stored ETag"},
		"no transactions":                   {`sqlite3.connect(path)`, `sqlite3.connect(path, isolation_level=None)`, ""},
		"it stops after one page":           {`        if place["up_to_date"]:`, `        if True:`, "many pages"},
		"failures are no failures":          {`    poll(db, url)` + "\n    for", "    try:\n        poll(db, url)\n    except Exception:\n        pass\n    for", "500"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile("reader.py")
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
			failed, said := prove(t, "python3", file)
			caught := false
			for line := range strings.Lines(said) {
				caught = caught || strings.HasPrefix(line, "not ok") && strings.Contains(line, x.breaks)
			}
			if !caught {
				t.Errorf("%d tests failed, none of %q:\n%s", failed, x.breaks, said)
			}
		})
	}
}
