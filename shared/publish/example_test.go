package publish_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/publish"
)

// library returns the database of a program with a table of its own, and a feed that tells of it.
func library(ctx context.Context) (pool *pgxpool.Pool, log *publish.Log, end func()) {
	database, drop := pgtest.Example()
	pool, err := pgxpool.New(ctx, pgtest.URL(database)) // as any program has one
	if err != nil {
		panic(err)
	}
	if err := publish.Migrate(ctx, pool, publish.Options{}); err != nil {
		panic(err)
	}
	if _, err := pool.Exec(ctx, `create table book (id uuid primary key, title text not null); select feed_create('books')`); err != nil {
		panic(err)
	}
	if log, err = publish.Open(ctx, pool, publish.Options{}); err != nil {
		panic(err)
	}
	return pool, log, func() {
		log.Close()
		pool.Close()
		drop()
	}
}

// A program with a table of its own tells of a row in the transaction that writes it.
func Example() {
	ctx := context.Background()
	database, drop := pgtest.Example()
	defer drop()
	pool, err := pgxpool.New(ctx, pgtest.URL(database))
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	// At the start of the program.
	if err := publish.Migrate(ctx, pool, publish.Options{Schema: "feeds"}); err != nil {
		panic(err)
	}
	if _, err := pool.Exec(ctx, `create table book (id uuid primary key, title text not null); select feeds.feed_create('books')`); err != nil {
		panic(err)
	}
	log, err := publish.Open(ctx, pool, publish.Options{Schema: "feeds"})
	if err != nil {
		panic(err)
	}
	defer log.Close()

	// For each change.
	id := uuid.New()
	err = log.InTx(ctx, func(tx *publish.Tx) error {
		tx.Append("books", publish.Entry{ID: id, Payload: []byte(`{"title":"Emma"}`)})
		_, err := tx.Exec(ctx, `insert into book (id, title) values ($1, 'Emma')`, id)
		return err
	})
	if err != nil {
		panic(err)
	}

	snapshot, err := log.Snapshot(ctx, "books")
	if err != nil {
		panic(err)
	}
	fmt.Println("the feed ends at position", snapshot.Position)
	// Output: the feed ends at position 1
}

// Many writers send statements and entries that are known beforehand.
func ExampleLog_Commit() {
	ctx := context.Background()
	_, log, end := library(ctx)
	defer end()

	id := uuid.New()
	add := publish.NewChange()
	add.Exec(`insert into book (id, title) values ($1, $2)`, id, "Emma")
	add.Append("books", publish.Entry{ID: id, Payload: []byte(`{"title":"Emma"}`)})
	fmt.Println(log.Commit(ctx, add))

	// What must hold in the database is guarded there: nothing has happened.
	rename := publish.NewChange()
	rename.Exec(`with changed as (update book set title = 'Emma!' where id = $1 and title = 'Emily' returning 1)
		select feed_guard(count(*) = 1) from changed`, id)
	rename.Append("books", publish.Entry{ID: id, Payload: []byte(`{"title":"Emma!"}`)})
	fmt.Println(errors.Is(log.Commit(ctx, rename), publish.ErrGuard))
	// Output:
	// <nil>
	// true
}

// A reader asks for the entries after a position, up to a cursor such as that of the head.
func ExampleLog_Entries() {
	ctx := context.Background()
	_, log, end := library(ctx)
	defer end()

	emma, persuasion := uuid.New(), uuid.New()
	err := log.InTx(ctx, func(tx *publish.Tx) error {
		tx.Append("books",
			publish.Entry{ID: emma, Payload: []byte(`{"title":"Ema"}`)},
			publish.Entry{ID: persuasion, Payload: []byte(`{"title":"Persuasion"}`)},
			publish.Entry{ID: emma, Payload: []byte(`{"title":"Emma"}`)},
			publish.Entry{ID: persuasion}, // no payload: the entity is deleted
		)
		return nil
	})
	if err != nil {
		panic(err)
	}

	head, err := log.Snapshot(ctx, "books")
	if err != nil {
		panic(err)
	}
	entries, _, err := log.Entries(ctx, "books", 0, head.Cursor(), head.Erasures)
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		fmt.Println(e.Position, e.Version, string(e.Entity), e.Deleted)
	}
	// Output:
	// 1 1 {"title":"Ema"} false
	// 2 1 {"title":"Persuasion"} false
	// 3 2 {"title":"Emma"} false
	// 4 2  true
}

// A version that skips one is refused.
func ExampleEntryError() {
	ctx := context.Background()
	_, log, end := library(ctx)
	defer end()

	change := publish.NewChange()
	change.Append("books", publish.Entry{ID: uuid.MustParse("0197a4f2-5c3e-7b1a-9d41-3f0a6c2e8b57"), Version: 2, Payload: []byte(`{}`)})
	err := log.Commit(ctx, change)
	refused, ok := errors.AsType[*publish.EntryError](err)
	fmt.Println(ok, refused)
	// Output: true version 2 of 0197a4f2-5c3e-7b1a-9d41-3f0a6c2e8b57 for feed "books" is the first of its entity: versions are 1, 2, 3 ...
}
