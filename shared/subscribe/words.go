package subscribe

import (
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// InWords returns a sentence that says what a failed poll means to those who read the copy. It quotes neither the source
// nor an entry; the details are in Copy.LastError.
func InWords(err error) string {
	var status *feedclient.StatusError
	var network net.Error
	var noAnswer *feedclient.NoAnswerError
	var redirect *feedclient.RedirectError
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, ErrEntries):
		return "What the source said could not be passed on."
	case errors.Is(err, ErrIncomplete):
		return "The copy is paused: the source does not publish all that it needs."
	case errors.Is(err, ErrApply):
		return "What the source said could not be applied."
	case errors.Is(err, feedclient.ErrDiverged):
		return "The source has another history than this copy."
	case errors.Is(err, feed.ErrPage):
		return "The source sent something that is not a page of this feed."
	case errors.As(err, &status) && status.Status == http.StatusUnauthorized:
		return "The source wants a token that it knows: FEED_TOKEN, or the password in the feed’s URL."
	case errors.As(err, &status) && status.Status == http.StatusForbidden:
		return "The token that the source was asked with is not for this feed."
	case errors.As(err, &status):
		return fmt.Sprintf("The source answered %d %s.", status.Status, http.StatusText(status.Status))
	case errors.As(err, &connect):
		return "The database of this service cannot be reached."
	case errors.As(err, &network) && network.Timeout():
		return "The source does not answer in time."
	case errors.As(err, &redirect):
		return "The source redirects to another place: its address may have changed."
	case errors.As(err, &noAnswer):
		return "The source cannot be reached."
	default:
		return "The poll failed."
	}
}
