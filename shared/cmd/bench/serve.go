package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// serveArg makes the program one of the servers that it measures: serve KIND DATABASE_URL, or serve nginx FOLDER.
const serveArg = "serve"

const stopTimeout = 15 * time.Second

// serve serves until ctx ends. Its first line of output is its address.
func serve(ctx context.Context, kind, of string, stdout io.Writer) error {
	if kind == nginxKind {
		return serveNginx(ctx, of, stdout)
	}
	logger := slog.New(slog.DiscardHandler)
	db, err := postgres.Open(ctx, postgres.Config{URL: of, Name: "bench"})
	if err != nil {
		return err
	}
	defer db.Close()
	var handler http.Handler
	switch kind {
	case feedKind:
		log, err := publish.Open(ctx, db.Pool, logger)
		if err != nil {
			return err
		}
		defer log.Close()
		engine := web.New(logger)
		publish.NewSource(log, publish.Config{Name: "Bench", PublicURL: publicURL}, description).Route(engine)
		handler = engine
	case structsKind:
		gin.SetMode(gin.ReleaseMode)
		engine := gin.New()
		engine.GET("/orders", marshalOrders(db.Pool))
		handler = engine
	default:
		return daemon.Usagef("%s takes no %q", serveArg, kind)
	}
	ln, err := web.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, ln.Addr())
	return web.ServeListener(ctx, ln, handler, logger)
}
