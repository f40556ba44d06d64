package pgtest

import (
	"io"
	"testing"
)

// Output returns the output of a test, for logs, until the test ends. What still runs in the background then would
// panic if it wrote there.
func Output(t testing.TB) io.Writer { return output{t} }

type output struct{ t testing.TB }

func (o output) Write(p []byte) (int, error) {
	select {
	case <-o.t.Context().Done():
		return len(p), nil
	default:
		return o.t.Output().Write(p)
	}
}
