package pgtest

import "testing"

// Slow skips the test under -short, because it needs something that takes long, such as "a browser".
func Slow(t testing.TB, needs string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("-short: it needs %s", needs)
	}
}
