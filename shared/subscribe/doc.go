// Package subscribe keeps copies of feeds in a program's own database. It polls each source on a schedule, applies what
// is new, and says how fresh the copy is. While a source is down, the copy serves on.
//
// A program has a pool of connections, calls [Migrate], makes a [Subscriber] with [New], and runs it:
//
//	if err := subscribe.Migrate(ctx, pool); err != nil {
//		return err
//	}
//	s, err := subscribe.New(ctx, pool, subscribe.Options{Name: "shop"}, subscribe.Feed{
//		Name: "books", URL: "https://books.example/feeds/books", Schedule: "@every 10s",
//		Table: "book", Columns: []string{"title"},
//	})
//	if err != nil {
//		return err
//	}
//	s.Run(ctx)
//
// A [Feed] with Columns is a pure copy. A feed with Apply writes the tables that the program likes, and a feed with
// Entries passes every version on. The subscriber reads no environment, opens no port and registers nothing. It is a
// [prometheus.Collector]; package subscribehttp has its pages and JSON.
//
// # Guarantees
//
//   - The copy is a prefix of the feed's history, and finally all of it. The rows of a page and the cursor behind it are
//     stored in one transaction: a crash anywhere repeats or skips nothing. Only a first copy that reads a snapshot holds
//     newer versions of some entities than of others, until it has caught up.
//   - Apply gets entities that are newer than their rows, or all of them again after a resync. It acts on state, not on
//     events.
//   - Of several processes with a subscriber of the same name, the one that holds the lease polls. The others stand by,
//     and one takes over within seconds.
//   - A bad entry is rejected, and holds up no other one: see [Subscription.Rejected]. It is tried again by itself, in
//     case the program was at fault. A fault of the database rejects nothing.
//   - If the source has another history, such as after the restore of a backup, the feed is read again while the copy
//     serves: from the newest cursor on that the source still has, if that is among the last 10,000 entries.
//   - A feed may have several sources, each with a subscription of its own. The copy is their union, and each entity is
//     of one source: no other one changes or deletes it.
//   - A copy never reports an as_of later than the state it holds.
//   - No log line quotes an entry or a password.
//
// # Reading order
//
// feed.go (what a program declares), subscriber.go and subscription.go (what it can ask for), migrate.go, poll.go (from
// the fire of a schedule to the commit), poller.go (its parts), schedule.go, due.go and requests.go (when a poll
// begins), lease.go (which process polls), fetch.go and wait.go (requests to the source), target.go, apply.go, upsert.go
// and publish.go (what is written), owner.go (which of several sources an entity is of), quarantine.go, doubt.go, blame.go, rejected.go and retries.go (entries that cannot be
// applied), erased.go, resync.go, lostend.go, forget.go, row.go and progress.go (what the database has of a subscription), state.go, health.go,
// status.go and metrics.go (the state of a copy), listen.go (entries that a [Stream] pushes).
//
// The file [README.md] tells how to tune and watch a subscriber, and [PROTOCOL.md] what goes over the wire.
//
// [README.md]: https://github.com/edison-cars/data-feeds/blob/main/shared/subscribe/README.md
// [PROTOCOL.md]: https://github.com/edison-cars/data-feeds/blob/main/shared/feed/PROTOCOL.md
package subscribe
