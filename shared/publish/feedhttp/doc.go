// Package feedhttp serves the feeds of a [publish.Log] over HTTP: as JSON Feed, Atom, HTML and server-sent events, in
// pages whose URLs stay and in snapshots, with long polls, conditional requests and compression. shared/feed/PROTOCOL.md
// specifies it.
//
// [New] returns the source of a log's feeds, an [http.Handler] that goes into any router: mount it at /feeds and below
// /feeds/, /problems/ and /assets/. In gin these are routes with gin.WrapH. What stands on its pages and in its
// documents, such as the author, are [Options]. A feed whose Description has no Show is made of the members of its
// entities.
//
// A request goes through the files in this order: request.go reads what is asked for, place.go finds it in the log,
// document.go puts the entries and links together, cache.go keeps the rendered and compressed bytes, and wait.go holds
// requests until there is news. snapshot.go finds and puts together the pages of a snapshot.
package feedhttp
