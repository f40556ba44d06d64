// Package serve serves every feed of a database, whichever program or SQL statement writes it.
package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"

	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/migrate"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/publish/feedhttp"
	"github.com/edison-cars/data-feeds/shared/service"
	"github.com/edison-cars/data-feeds/shared/web"
	"github.com/edison-cars/data-feeds/shared/webserver"
	"github.com/edison-cars/data-feeds/sql"
)

// Settings of the process.
type Settings struct {
	service.Settings
	OwnSettings
}

// OwnSettings are the settings that only this process has.
type OwnSettings struct {
	ErasedFile string `env:"ERASED_FILE" help:"file with the ids that were erased from feeds, so that a restored dump does not bring them back; keep it apart from the database and its backups, shared by all processes that serve this database; defaults to .edison/DATABASE.erased"`
}

// Check returns an error for each wrong value.
func (s Settings) Check() error {
	err := s.Settings.Check()
	if s.DatabaseURL == "" {
		err = errors.Join(err, daemon.Usagef("DATABASE_URL must be set: the database whose feeds are served"))
	}
	return err
}

var shell = service.Service{
	Name: "serve", Title: "Feeds", Addr: "127.0.0.1:8082", Feeds: true, Foreign: true, Migrations: []postgres.Migrations{sql.Migrations("publish")},
}

// Help prints the settings.
func Help(w io.Writer) { shell.Help(w, OwnSettings{}) }

const (
	lookAgain   = time.Second     // between two readings of what feeds there are
	lookTimeout = 2 * time.Second // for one reading
	// denied is the exit code if the role may not make or use the tables.
	denied = 3
)

// Run serves the feeds until ctx ends.
func Run(ctx context.Context, settings Settings, stdout io.Writer) error {
	logger := daemon.Logger(stdout, settings.LogLevel)
	p, err := service.Open(ctx, shell, settings.Settings, logger)
	if forbidden, ok := errors.AsType[*migrate.DeniedError](err); ok {
		fmt.Fprint(stdout, forbidden.SQL)
		return daemon.ExitWith(denied, fmt.Errorf("%w; the SQL on standard output is for the owner of the tables: it makes what is missing, and grants its use to the role %s",
			err, forbidden.Role))
	}
	if err != nil {
		return err
	}
	defer p.Close()
	log, err := publish.Open(ctx, p.Pool, publish.Options{
		Logger: logger, Standbys: p.Standbys, FromSQL: true, Erasures: publish.Erasures{File: erasedFile(settings, p.Pool.Config().ConnConfig)},
		CompactAfter: time.Duration(settings.CompactAfter),
	})
	if err != nil {
		return err
	}
	defer log.Close()
	f := &follower{log: log, logger: logger}
	feeds, err := f.look(ctx)
	if err != nil {
		return err
	}
	nav := []web.Link{{Text: "Feeds", URL: "/feeds"}}
	p.Nav = func(*gin.Context) []web.Link { return nav }
	p.Health(func(ctx context.Context) error { return source.Ready(ctx, p.Pool, log, nil, p.Tables) })
	f.source = p.Publish(log, nav, feeds...)
	webserver.GET(p.Readers, "/", func(c *gin.Context) { c.Redirect(http.StatusSeeOther, "/feeds") })
	p.Go(func(ctx context.Context) { f.run(ctx, feeds) })
	return p.Serve(ctx)
}

// erasedFile returns the path of the list. By default it has the address of the database in its name: databases that do
// not share a history, such as one and a copy of it, must not share a list.
func erasedFile(settings Settings, at *pgx.ConnConfig) string {
	name := url.PathEscape(fmt.Sprintf("%s:%d:%s", strings.TrimPrefix(at.Host, "/"), at.Port, at.Database))
	return cmp.Or(settings.ErasedFile, filepath.Join(cmp.Or(settings.DataDir, postgres.DefaultDir), name+".erased"))
}

// A follower keeps the feeds of a source as the database has them.
type follower struct {
	log    *publish.Log
	source *feedhttp.Source
	logger *slog.Logger
	left   []string // the feeds that are not served
}

// run follows the database until ctx ends.
func (f *follower) run(ctx context.Context, served []feed.Description) {
	for quiet := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookAgain):
		}
		feeds, err := f.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !quiet:
			f.logger.WarnContext(ctx, "not seeing new feeds", "error", err)
		case err == nil && !reflect.DeepEqual(feeds, served):
			f.source.SetFeeds(feeds...)
			served = feeds
		}
		quiet = err != nil
	}
}

// servable are names that can be in a URL, without a suffix, and in TOKENS.
var servable = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// look returns the feeds whose names can be in a URL.
func (f *follower) look(ctx context.Context) (feeds []feed.Description, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	all, err := f.log.Feeds(ctx)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, d := range all {
		if servable.MatchString(d.Name) {
			feeds = append(feeds, d)
		} else {
			left = append(left, d.Name)
		}
	}
	if len(left) > len(f.left) {
		f.logger.WarnContext(ctx, "feeds not served: a name takes letters, digits, - and _", "feeds", left)
	}
	f.left = left
	return feeds, nil
}
