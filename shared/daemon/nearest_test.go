package daemon

import "testing"

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"status", "poll", "pause", "warehouse", "POLL_ORDERS", "POLL_WAIT"}
	for word, want := range map[string]string{
		"staus": "status", "sttaus": "status", "wharehouse": "warehouse", "pol": "poll", "POLL_ORDER": "POLL_ORDERS", "poll_orders": "POLL_ORDERS",
		"": "", "p": "", "pool": "poll", "POLL_ODRES": "POLL_ORDERS", "stat": "status", "Ware": "warehouse", "po": "", "wa": "", "shipping": "", "POLL_INVOICES": "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("%q: %q, not %q", word, got, want)
		}
	}
	if got := DidYouMean("staus", words) + DidYouMean("bill", words); got != `; did you mean "status"?` {
		t.Error(got)
	}
}
