package dashboard

import "testing"

func TestAmountsFromAMillionHaveNoCents(t *testing.T) {
	s := &statistics{Currency: "EUR"}
	for cents, want := range map[int64]string{
		0: "€0", 45_990_00: "€45,990", 45_990_05: "€45,990.05", 999_999_99: "€999,999.99",
		1_000_000_49: "€1,000,000", 1_234_567_50: "€1,234,568",
	} {
		if got := s.Amount(cents); got != want {
			t.Errorf("%d cents: %s, want %s", cents, got, want)
		}
	}
}
