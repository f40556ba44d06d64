package publish_test

import (
	osexec "os/exec"
	"strings"
	"testing"
)

// The log brings no server, pages or HTTP client to a program, and few packages: pgx, goose and Prometheus with what
// these need.
func TestDependencies(t *testing.T) {
	t.Parallel()
	list, err := osexec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	others := 0
	for path := range strings.FieldsSeq(string(list)) {
		if !strings.HasPrefix(path, "github.com/edison-cars/data-feeds/") {
			others++
		}
		for _, not := range []string{"github.com/gin-gonic/", "github.com/klauspost/", "github.com/edison-cars/data-feeds/shared/web", "github.com/edison-cars/data-feeds/shared/feedclient"} {
			if strings.HasPrefix(path, not) {
				t.Errorf("it imports %s", path)
			}
		}
	}
	if others > 100 {
		t.Errorf("it imports %d packages of others", others)
	}
}
