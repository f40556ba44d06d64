// Package publish is the log of a database's feeds: it gives every entry its position in commit order, and commits entries together
// with the changes of tables that they tell of.
//
// [Open] returns the log. [Log.InTx] runs a function in a transaction, and commits what it appends by [Tx.Append] with it.
// [Log.Commit] sends a [Change], statements and entries that are known beforehand, and groups changes that come at the same time: it is
// the one for many writers. Readers get entries from [Log.Locate], [Log.Entries] and [Log.Versions], or from [Log.Snapshot], which
// needs no database; package feedhttp serves them over HTTP.
package publish
