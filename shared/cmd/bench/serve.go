package main

import (
	"context"
	"io"

	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
)

// serveArg makes the program one of the processes that it measures: serve KIND DATABASE_URL, or serve nginx FOLDER.
const serveArg = "serve"

// The kinds of processes, beside those of a shop.
const (
	nginxKind   = "nginx" // serves a folder, or is a shared cache of the server at upstreamEnv
	structsKind = "structs"
	feedKind    = shop.SalesByFeed
)

const upstreamEnv = "BENCH_UPSTREAM"

// serve serves until ctx ends. Its first line of output is its address.
func serve(ctx context.Context, kind, of string, env map[string]string, stdout io.Writer) error {
	switch kind {
	case nginxKind:
		return serveNginx(ctx, of, env[upstreamEnv], stdout)
	case structsKind:
		return serveStructs(ctx, of, stdout)
	}
	return shop.Serve(ctx, kind, of, env, stdout)
}
