package subscribe

import (
	"fmt"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// A page says what to do where the source refuses the token of a service.
func TestRefusedToken(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{401: "FEED_TOKEN", 403: "is not for this feed", 404: "404 Not Found"} {
		if got := inWords(fmt.Errorf("poll: %w", &feed.StatusError{Status: status})); !strings.Contains(got, want) {
			t.Errorf("%d: %s", status, got)
		}
	}
}
