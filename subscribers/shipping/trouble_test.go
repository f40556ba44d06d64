package shipping

import (
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/shipment"
	"github.com/edison-cars/data-feeds/shared/web"
)

// The page begins with what waits, if anything does.
func TestWaitingFirst(t *testing.T) {
	t.Parallel()
	for count, want := range map[int64]string{0: "", 1: "1 shipment waits</strong>", 1234: "1,234 shipments wait</strong>"} {
		text, err := web.Execute(page, web.Page{Data: shown{Stages: []stage{{Status: shipment.Waiting, Count: count}}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(text); strings.Contains(got, " for a car or a customer. <a href=\"/shipments?status=waiting\">") != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%d: %s", count, got)
		}
	}
}
