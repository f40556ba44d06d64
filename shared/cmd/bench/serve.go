package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/edison-cars/data-feeds/sales-feed/customers"
	"github.com/edison-cars/data-feeds/sales-feed/sales"
	serving "github.com/edison-cars/data-feeds/sales-feed/serve"
	"github.com/edison-cars/data-feeds/shared/cmd/bench/shop"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/deploy/cache"
)

// serveArg makes the program one of the processes that it measures: serve KIND DATABASE_URL, or serve nginx FOLDER.
const serveArg = "serve"

// The kinds of processes, beside those of a shop and the services that subscribe.
const (
	nginxKind     = "nginx" // serves a folder, or is a shared cache of the server at upstreamEnv
	structsKind   = "structs"
	salesKind     = "sales"     // the app itself, at ADDR
	customersKind = "customers" // the app itself, at ADDR
	serveKind     = "serve"     // the process that serves the feeds of any database, at ADDR
	feedKind      = shop.SalesByFeed
	standbyKind   = "standby" // a hot standby, in a folder, of the server at upstreamEnv
	cacheKind     = "cache-"  // with the kind of a cache: it is one, with its files in a folder, before the server at upstreamEnv
)

const upstreamEnv = "BENCH_UPSTREAM"

func serve(ctx context.Context, kind, of string, env map[string]string, stdout io.Writer) error {
	if program, ok := strings.CutPrefix(kind, cacheKind); ok {
		return serveCache(ctx, cache.Kind(program), of, env[upstreamEnv], stdout)
	}
	switch kind {
	case nginxKind:
		return serveNginx(ctx, of, env[upstreamEnv], stdout)
	case standbyKind:
		return serveStandby(ctx, of, env[upstreamEnv], stdout)
	case structsKind:
		return serveStructs(ctx, of, stdout)
	case salesKind:
		var settings sales.Settings
		env["DATABASE_URL"] = of
		if err := daemon.Parse(env, &settings); err != nil {
			return err
		}
		fmt.Fprintln(stdout, env["ADDR"])
		return sales.Run(ctx, settings, os.Stderr)
	case customersKind:
		var settings customers.Settings
		env["DATABASE_URL"] = of
		if err := daemon.Parse(env, &settings); err != nil {
			return err
		}
		fmt.Fprintln(stdout, env["ADDR"])
		return customers.Run(ctx, settings, os.Stderr)
	case serveKind:
		var settings serving.Settings
		env["DATABASE_URL"] = of
		if err := daemon.Parse(env, &settings); err != nil {
			return err
		}
		fmt.Fprintln(stdout, env["ADDR"])
		return serving.Run(ctx, settings, os.Stderr)
	}
	if s := subscribers()[kind]; s != nil {
		env["DATABASE_URL"] = of
		fmt.Fprintln(stdout, env["ADDR"])
		return s.Run(ctx, env, os.Stderr)
	}
	return shop.Serve(ctx, kind, of, env, stdout)
}
