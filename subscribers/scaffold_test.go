package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/dev/exectest"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// A new service is written in a copy of the project, from what a feed has: it builds, its test passes, and it copies the
// feed.
func TestNew(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a build")
	copied := t.TempDir()
	if out, err := exec.Command("sh", "-c", `tar -C .. -c --exclude=.git --exclude=.edison . | tar -C "$1" -x`, "sh", copied).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	id, zero := uuid.New(), uuid.New()
	feedURL := serveFeed(t, "books",
		publish.Entry{ID: zero, Payload: []byte(`{"id": "` + zero.String() + `", "order": "first", "pages": 0, "in-print": false, "price": 3, "price_of": {"EUR": 1}, "gone": null, "author_id": "` + id.String() + `", "Order": "x", "été": 1}`)},
		publish.Entry{ID: id, Payload: []byte(`{"order": "<b>second</b>", "pages": 9007199254740993, "in-print": true, "price": 3.10, "author_id": null, "read_at": "2026-11-23T12:00:00.123456Z", "tags": ["a"], "VAT": 7}`)},
	)
	binary := filepath.Join(t.TempDir(), "subscribers")
	command := func(env []string, name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = copied, append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := command(nil, name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return out
	}
	must("go", "build", "-buildvcs=false", "-o", binary, "./subscribers")
	said, err := command([]string{"FEED_TOKEN=datafeed_hunter2hunter2hunter2hunter2"}, binary, "new", "library", "--feed", feedURL)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, want := range []string{
		"wrote sql/library/00001_library.sql\n", "wrote subscribers/library/library.go\n", "wrote subscribers/library/library.html\n", "wrote subscribers/library/library_test.go\n", "wrote subscribers/services/services.go\n",
		"11 columns, of the types of the newest 2 entries", `Left out are members whose names are none of a column: ["été"]`,
		"http://localhost:8097;", "\n  go test ./subscribers/library\n", "\n  ACCESS=open FEED_TOKEN=\"${FEED_TOKEN:?}\" go run ./subscribers library\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if commands := strings.Count(said, "\n  "); commands != 2 {
		t.Errorf("from the command to the page it takes %d steps, which are more than 4:\n%s", 1+commands+1, said)
	}
	for _, file := range []string{"sql/library/00001_library.sql", "subscribers/library/library.go", "subscribers/services/services.go"} {
		if text, err := os.ReadFile(filepath.Join(copied, file)); err != nil || strings.Contains(string(text), "hunter2") || strings.Contains(string(text), "second") {
			t.Errorf("%s: %v\n%s", file, err, text)
		}
	}
	table, err := os.ReadFile(filepath.Join(copied, "sql/library/00001_library.sql"))
	for _, column := range []string{
		`"order" text`, `"Order" text`, `"pages" bigint`, `"in-print" boolean`, `"price" numeric`, `"author_id" uuid`, `"read_at" timestamptz`, `"tags" jsonb`, `"price_of" jsonb`, `"gone" jsonb`, `"VAT" bigint`,
	} {
		if err != nil || strings.Count(string(table), "    "+column) != 1 {
			t.Errorf("the table has no column %s, %v:\n%s", column, err, table)
		}
	}
	if again, err := command(nil, binary, "new", "library", "--feed", feedURL); err == nil || !strings.Contains(again, "subscribers/library is there already") {
		t.Errorf("written again: %v, %s", err, again)
	}
	if unformatted := must("gofmt", "-l", "subscribers", "sql"); unformatted != "" {
		t.Errorf("gofmt would change %s", unformatted)
	}
	must("go", "vet", "./subscribers", "./subscribers/library")
	must("go", "test", "./subscribers/library")
	must("go", "build", "-buildvcs=false", "-o", binary, "./subscribers")
	if list := must(binary); !strings.Contains(list, "\nlibrary     127.0.0.1:8097   books                        keeps a copy of books\n") {
		t.Errorf("it is not in the list:\n%s", list)
	}

	url := startProcess(t, binary, "library")
	type row = map[string]any
	var got struct{ Rows []row }
	eventually(t, "it has copied the feed", func() bool {
		_, _, body := get(t, url+"/api/books", "application/json")
		decoder := json.NewDecoder(strings.NewReader(body))
		decoder.UseNumber()
		return decoder.Decode(&got) == nil && len(got.Rows) == 2
	})
	for _, r := range got.Rows {
		want := row{"id": id.String(), "version": json.Number("1"), "order": "<b>second</b>", "pages": json.Number("9007199254740993"), "in-print": true, "price": json.Number("3.10"),
			"author_id": nil, "read_at": "2026-11-23T12:00:00.123456Z", "tags": []any{"a"}, "price_of": nil, "gone": nil, "VAT": json.Number("7"), "Order": nil}
		if r["id"] == id.String() && fmt.Sprint(r) != fmt.Sprint(want) {
			t.Errorf("the row is\n%v, want\n%v", r, want)
		}
	}
	t.Run("the service of the README", func(t *testing.T) { newAsInReadme(t, copied, binary, must) })
	if _, _, page := get(t, url+"/", "text/html"); !strings.Contains(page, "&lt;b&gt;second&lt;/b&gt;") || !strings.Contains(page, "<code>[\n  &#34;a&#34;\n]</code>") || !strings.Contains(page, ">false<") || !strings.Contains(page, zero.String()) {
		t.Errorf("the page is %s", page)
	}
}

// startProcess runs a service, with its settings as they are by default, and returns its URL.
func startProcess(t *testing.T, binary, name string) string {
	t.Helper()
	service := exec.Command(binary, name)
	service.Env = append(os.Environ(), "ADDR=127.0.0.1:0", "ACCESS=open", "DATABASE_URL="+pgtest.URL(pgtest.New(t)))
	return exectest.Start(t, service).URL
}

// What cannot be done is refused before anything is written, with what to do.
func TestNewRefused(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		args []string
		env  map[string]string
		says string
	}{
		{[]string{"new"}, nil, "new takes the NAME of a service and --feed URL"},
		{[]string{"new", "fleet"}, nil, "new takes the NAME of a service and --feed URL"},
		{[]string{"new", "Fleet", "--feed", "http://localhost:1/feeds/orders"}, nil, "small letters and digits, a letter first"},
		{[]string{"new", "../up", "--feed", "http://localhost:1/feeds/orders"}, nil, "small letters and digits, a letter first"},
		{[]string{"new", "func", "--feed", "http://localhost:1/feeds/orders"}, nil, "func means something in Go"},
		{[]string{"new", "string", "--feed", "http://localhost:1/feeds/orders"}, nil, "string means something in Go"},
		{[]string{"new", "warehouse", "--feed", "http://localhost:1/feeds/orders"}, nil, "warehouse is taken"},
		{[]string{"new", "poll", "--feed", "http://localhost:1/feeds/orders"}, nil, "poll is taken"},
		{[]string{"new", "sales", "--feed", "http://localhost:1/feeds/orders"}, nil, "sales is taken"},
		{[]string{"new", "publish", "--feed", "http://localhost:1/feeds/orders"}, nil, "sql/publish is there already"},
		{[]string{"new", "subscriber", "--feed", "http://localhost:1/feeds/orders"}, nil, "subscriber has another meaning"},
		{[]string{"new", "services", "--feed", "http://localhost:1/feeds/orders"}, nil, "subscribers/services is there already"},
		{[]string{"new", "fleet", "--feed", "localhost:1/feeds/orders"}, nil, "--feed: takes the http or https URL of a feed"},
		{[]string{"new", "fleet", "--feed", "http://localhost:1"}, nil, "is not the name of a feed"},
		{[]string{"new", "fleet", "--feed", "http://cars.example/feeds/orders"}, map[string]string{"FEED_TOKEN": "hunter2"}, "FEED_TOKEN would be sent to cars.example without TLS"},
		{[]string{"new", "fleet", "--feed", "http://localhost:1/feeds/orders"}, nil, "connection refused"},
		{[]string{"new", "fleet", "--feed", serveFeed(t, "empty")}, nil, "the feed has no entry yet"},
	} {
		err := run(t.Context(), x.args, x.env, io.Discard)
		if err == nil || !strings.Contains(err.Error(), x.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", x.args, err)
		}
		if x.says != "connection refused" && x.says != "the feed has no entry yet" && !errors.Is(err, daemon.ErrUsage) {
			t.Errorf("%q: not a wrong command line: %v", x.args, err)
		}
	}
	if _, err := os.Stat("fleet"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"new", "--help"}, nil, &out); err != nil || !strings.Contains(out.String(), "FEED_TOKEN") {
		t.Errorf("%v\n%s", err, &out)
	}
}
