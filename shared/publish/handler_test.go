package publish_test

import (
	"log/slog"
	"net/http"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/web"
)

func TestMain(m *testing.M) {
	publish.Handler = func(l *publish.Log, private bool, feeds ...feed.Description) http.Handler {
		engine := web.New(slog.New(slog.DiscardHandler))
		config := feedhttp.Config{Name: "Test", PublicURL: "http://source.example", Private: private}
		feedhttp.NewSource(l, config, feeds...).Route(engine)
		return engine
	}
	pgtest.Main(m)
}
