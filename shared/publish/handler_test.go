package publish_test

import (
	"net/http"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
)

func TestMain(m *testing.M) {
	publish.Handler = func(l *publish.Log, private bool, feeds ...feed.Description) http.Handler {
		return feedhttp.New(l, feedhttp.Options{Name: "Test", PublicURL: "http://source.example", Private: private}, feeds...)
	}
	pgtest.Main(m)
}
