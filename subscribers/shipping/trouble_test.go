package shipping

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/carbuild"
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

// A shipment that waits says what for, in the lists, on its page and in the API.
func TestWaitsFor(t *testing.T) {
	t.Parallel()
	d := newDepot(t)
	for _, step := range []struct {
		events []event
		want   string
		page   string
	}{
		{[]event{built(1, 1, carbuild.Finished, 1)}, "[customer]", "The customer is not known yet."},
		{[]event{built(1, 2, carbuild.Started, 1)}, "[car customer]", "The car is not finished. The customer is not known yet."},
		{[]event{signedUp(1, 1, "Ulm")}, "[car]", "The car is not finished."},
		{[]event{built(1, 3, carbuild.Finished, 1)}, "[]", "Ulm"},
	} {
		if err := d.do(t.Context(), step.events...); err != nil {
			t.Fatal(err)
		}
		found, err := list(httptest.NewRequest(http.MethodGet, "/shipments", nil), d.Pool, pageLimit)
		if err != nil || len(found.Items) != 1 || fmt.Sprint(found.Items[0].WaitsFor) != step.want {
			t.Fatalf("%+v waits for, not %s (%v)", found.Items, step.want, err)
		}
		stages, err := overview(t.Context(), d.Pool)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.SetPathValue("id", found.Items[0].ID.String())
		one, err := readLabel(r, d.Pool)
		if err != nil {
			t.Fatal(err)
		}
		label, err := web.Execute(labelPage, web.Page{Data: one})
		if err != nil || !strings.Contains(string(label), step.page) {
			t.Errorf("not %s in %s (%v)", step.page, label, err)
		}
		first, err := web.Execute(page, web.Page{Data: shown{Stages: stages}})
		if err != nil {
			t.Fatal(err)
		}
		all, err := web.Execute(shipmentsPage, web.Page{Data: shipmentList{List: found}})
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{"car", "customer"} {
			for _, text := range []string{string(first), string(all)} {
				if strings.Contains(text, what+" missing</span>") != strings.Contains(step.want, what) {
					t.Errorf("%s: %s", step.want, text)
				}
			}
		}
	}
}
