package pgtest

import (
	"flag"
	"runtime"
	"strconv"
	"testing"
)

// overlapping is how many tests run at the same time, whatever the number of CPUs: tests of services mostly wait.
const overlapping = 6

// Overlap lets that many parallel tests run at a time, unless the flag -parallel says how many. A TestMain that does
// not call [Run] or [Main] calls it before the tests.
func Overlap() {
	if !flag.Parsed() {
		flag.Parse()
	}
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given && runtime.GOMAXPROCS(0) < overlapping {
		_ = flag.Set("test.parallel", strconv.Itoa(overlapping))
	}
}

// Slow skips the test under -short, because it needs something that takes long, such as "a browser".
func Slow(t testing.TB, needs string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("-short: it needs %s", needs)
	}
}
