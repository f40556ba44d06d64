package follow

import (
	"errors"
	"fmt"
	"strings"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// newClient returns a client for the format of --atom.
func newClient(o *options) *feedclient.Client {
	if o.atom {
		return feedclient.NewOf(o.token, feedclient.Format{Type: feed.TypeAtom, Page: parseAtom, Head: atomHead})
	}
	return feedclient.New(o.token)
}

// errNoFeed says that the answer is not a feed of this protocol.
var errNoFeed = errors.New("not a feed of this protocol")

// noFeed returns errNoFeed for an answer that cannot be read, and says whether --atom helps.
func noFeed(err error) error {
	hint := ""
	if other, ok := errors.AsType[*feedclient.TypeError](err); ok {
		switch mediaType, _, _ := strings.Cut(other.Got, ";"); mediaType {
		case feed.TypeAtom:
			hint = "; --atom reads that"
		case feed.TypeJSONFeed:
			hint = "; without --atom it can be read"
		}
	}
	return fmt.Errorf("%w: %s%s", errNoFeed, strings.TrimPrefix(err.Error(), feed.ErrPage.Error()+": "), hint)
}
