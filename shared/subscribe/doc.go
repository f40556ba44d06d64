// Package subscribe is a reader's half of a data feed: it polls a source on a schedule, applies what is new to the
// service's own database, and tells how fresh the copy is. A service says only which feeds it reads, what it does
// with a batch of entities, and what its pages show: see [Service], [Feed] and [Batch].
//
// A page of the feed and the cursor behind it are stored in one transaction, so that a poll can be broken off anywhere.
// What Apply gets is newer than the copy, or everything again after a resync: it acts on state, not on events. One process
// of a service polls, the one that has the lease; the others serve, and take over when it ends.
//
// The files are read in this order: service.go (what a service declares), poll.go (from the fire of a schedule to the
// commit), poller.go (its parts), schedule.go, due.go and requests.go (when a poll begins), lease.go (which process polls),
// fetch.go and wait.go (requests to the source), target.go, apply.go and upsert.go (what is written), quarantine.go, doubt.go
// and blame.go (entries that cannot be applied), erased.go, resync.go, row.go and progress.go (what the database has of a
// subscription), state.go, health.go, status.go and metrics.go (how it is), listen.go (entries by an event stream), and then
// run.go, site.go, api.go, pages.go and rejected.go (the service's process and its pages).
package subscribe
