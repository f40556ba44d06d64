// Package publish is the log of a database's feeds: it gives every entry its position in commit order, and commits
// entries together with the changes of tables that they tell of. It works on the PostgreSQL of any program:
//
//	pool, err := pgxpool.New(ctx, url)
//	...
//	err = publish.Migrate(ctx, pool, publish.Options{}) // makes the tables
//	...
//	_, err = pool.Exec(ctx, `select feed_create('books')`) // makes a feed
//	...
//	log, err := publish.Open(ctx, pool, publish.Options{})
//	...
//	err = log.InTx(ctx, func(tx *publish.Tx) error {
//		tx.Append("books", publish.Entry{ID: id, Payload: book})
//		_, err := tx.Exec(ctx, `insert into book (id) values ($1)`, id)
//		return err
//	})
//
// # What it guarantees
//
// Positions are 1, 2, 3 ... in the order of the commits, so a reader that asks for the entries after a position misses
// none. An entry is in the log exactly if its transaction was committed. Versions of an entity are 1, 2, 3 ..., and
// their times grow. What the log acknowledges, and what readers get, is as durable as the server's settings make a
// commit. The digest of an entry covers all entries before it, so a cursor shows which history it comes from;
// [shared/feed/PROTOCOL.md] says how the digest is computed.
//
// # InTx or Commit
//
// [Log.InTx] runs any code in a transaction. Each transaction holds the head of its feed until it is flushed to disk, so
// a feed takes one such commit per flush, however many writers there are. [Log.Commit] takes statements and entries that
// are known beforehand, and sends up to 512 changes that wait at the same moment as one transaction with one flush. Use
// it for many writers.
//
// # SQL
//
// Programs in any language publish by the SQL functions feed_put, feed_delete, feed_erase and feed_attach, which
// [shared/publish/SQL.md] describes, and Go programs in any open transaction by [Put] and [Delete]. The process that serves
// the feeds sets FromSQL in [Options].
//
// # Reading
//
// [Log.Locate], [Log.Entries], [Log.Entities] and [Log.Versions] read the database, or its hot standbys, and
// [Log.Snapshot] returns the head and the newest entries from memory. Package [github.com/edison-cars/data-feeds/shared/publish/feedhttp] serves them
// over HTTP.
//
// # Reading order
//
// entry.go and tx.go (what a program appends), log.go (the log, and transactions), group.go (changes that are committed
// together), packet.go and encode.go (how they are sent), certain.go (what became of a commit), confirm.go (synchronous
// standbys), heads.go, look.go, peers.go and loss.go (what a process knows of the ends of the feeds), sql.go and
// move.go (what other programs publish by SQL), read.go, entities.go, standbys.go (reads from hot standbys), erased.go and
// reerase.go (erasures that outlive a restore), compact.go (superseded entries), conn.go, room.go, metrics.go and
// errors.go.
//
// [shared/publish/SQL.md]: https://github.com/edison-cars/data-feeds/blob/main/shared/publish/SQL.md
// [shared/feed/PROTOCOL.md]: https://github.com/edison-cars/data-feeds/blob/main/shared/feed/PROTOCOL.md
package publish
