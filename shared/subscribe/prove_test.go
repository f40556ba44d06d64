package subscribe

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feed/check"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/sql"
)

// provedReader is the environment variable with the database of a process that TestProve starts.
const provedReader = "PROVED_READER"

// The engine passes what readers in other languages have to pass.
func TestProve(t *testing.T) {
	pgtest.Slow(t, "hundreds of processes")
	t.Setenv(provedReader, pgtest.New(t, sql.Migrations("subscribe")).Config().ConnString())
	for name, columns := range map[string]string{"Apply": "", "columns": "key=id,text,list,asked"} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if failed, err := check.Prove(t.Context(), []string{os.Args[0], "URL", "DIR", columns}, &out); err != nil || failed > 0 {
				t.Errorf("%v %s", err, &out)
			}
		})
	}
}

// runProved polls a feed into a table of its own, as the process that TestProve has started, and writes the copy.
func runProved(database, url, dir, columns string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, database)
	if err != nil {
		return err
	}
	defer pool.Close()
	table := strings.ReplaceAll(filepath.Base(dir), "-", "_")
	_, err = pool.Exec(ctx, `create table if not exists `+table+` (id uuid primary key, version bigint not null, key text, text text, list jsonb, asked int)`)
	if err != nil {
		return err
	}
	all := strings.Split("key=id,text,list,asked", ",")
	f := Feed{Name: "entities", URL: url, Schedule: "@every 5s", Table: table}
	if columns != "" {
		f.Columns = all
	} else {
		f.Apply = func(ctx context.Context, tx pgx.Tx, b *Batch) error { return b.Upsert(ctx, tx, table, all...) }
	}
	p, err := newPoller(pool, Options{Name: table, PageSize: feed.MaxPageSize, Logger: discard}, f)
	if err == nil {
		err = p.create(ctx)
	}
	if err == nil {
		err = p.poll(ctx, false)
	}
	if err != nil { // a resync that has to begin again does so at the next poll
		err = p.poll(ctx, false)
	}
	if err != nil {
		return err
	}
	rows, err := pool.Query(ctx, `
		select id, version, case when asked is null then jsonb_build_object('id', key, 'text', text, 'list', list) else jsonb_build_object('asked', asked) end from `+table)
	if err != nil {
		return err
	}
	type row struct {
		ID      uuid.UUID       `json:"id"`
		Version int64           `json:"version"`
		Entity  json.RawMessage `json:"entity"`
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	for _, r := range list {
		line, wrong := json.Marshal(r)
		err = cmp.Or(err, wrong)
		fmt.Println(string(line))
	}
	return err
}
