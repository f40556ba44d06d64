package source

import (
	"errors"
	"testing"

	"github.com/edison-cars/data-feeds/shared/web"
)

// The clock of the machine may go backwards: a later version still is later.
func TestLater(t *testing.T) {
	t.Parallel()
	at := Now()
	if got := Later(at.Add(-1), at); !got.After(at) {
		t.Errorf("%v does not come after %v", got, at)
	}
}

// A buyer whose purchase may have succeeded must not simply be told to try again.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		twice string
		keyed bool
		says  string
	}{
		{"order twice", true, "Repeat the request with the same Idempotency-Key: that is safe."},
		{"order twice", false, "It may still happen: check /orders/1 before you repeat the request, which may order twice."},
		{"", false, "It may still happen: check /orders/1. Repeating the request is safe."},
	} {
		p, ok := errors.AsType[*web.Problem](UnknownOutcome("/orders/1", test.twice, test.keyed))
		if !ok || p.Status != 503 || p.Header.Get("Retry-After") != "" || p.Header.Get("Location") != "/orders/1" ||
			p.Detail != "The database did not confirm in time whether the request was executed. "+test.says {
			t.Errorf("%+v: %+v", test, p)
		}
	}
}
