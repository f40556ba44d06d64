package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/order"
)

// newAsInReadme makes the service of the README by its command, changes it as the README does, and runs it.
func newAsInReadme(t *testing.T, module, binary string, must func(name string, args ...string) string) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	customer := uuid.New()
	placed := func() order.Order {
		return order.Order{ID: uuid.New(), Version: 1, Status: order.Placed, CustomerID: customer, Currency: "EUR", PlacedAt: feed.TimeOf(noon), UpdatedAt: feed.TimeOf(noon)}
	}
	const made = "go run ./subscribers new loyalty --feed "
	if !strings.Contains(string(readme), "\n"+made) {
		t.Fatalf("the README does not have %q", made)
	}
	must(binary, "new", "loyalty", "--feed", ordersFeed(t, placed(), placed()))
	file := filepath.Join(module, "subscribers/loyalty/loyalty.go")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	route := regexp.MustCompile("(?s)`Routes` gets\n\n```go\n(.*?)```").FindSubmatch(readme)
	structure := regexp.MustCompile("(?s)```\n\nwith\n\n```go\n(.*?)```").FindSubmatch(readme)
	const last = "\t\ts.JSON(\"/api/orders\", rows)\n"
	if route == nil || structure == nil || !strings.Contains(string(text), last) {
		t.Fatalf("where is the change? %q, %q in\n%s", route, structure, text)
	}
	changed := strings.Replace(string(text), last, last+string(route[1]), 1) + "\n" + string(structure[1])
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if unformatted := must("gofmt", "-l", "subscribers"); unformatted != "" {
		t.Errorf("gofmt would change %s", unformatted)
	}
	must("go", "build", "-buildvcs=false", "-o", binary, "./subscribers")
	url := startProcess(t, binary, "loyalty")
	want := fmt.Sprintf(`[{"customer_id":"%s","orders":2}]`, customer)
	eventually(t, "it answers "+want, func() bool {
		_, _, body := get(t, url+"/api/customers", "*/*")
		return strings.TrimSpace(body) == want
	})
}
