package feedhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// serveSnapshot answers with a page of a snapshot. It is of the head that it was read at, so any append changes its tag.
func (s *Source) serveSnapshot(w http.ResponseWriter, r *http.Request, res *resource) error {
	t, err := s.log.Snapshot(r.Context(), res.inLog)
	if err != nil {
		return err
	}
	s.forget(t.Epoch)
	tag := s.snapshotTag(res, t.Head)
	doc := s.cache.lookup(tag)
	if known := (&answer{tag: tag}); doc == nil && !notModified(r.Header, known) {
		if err := s.cold.Check(r, units(res.limit)); err != nil {
			return err
		}
		s.metrics.misses.Inc()
		client := web.ClientKey(r)
		doc, err = s.cache.get(r.Context(), tag, func(ctx context.Context) (doc *cached, err error) {
			err = s.turns.take(ctx, client, func() error { doc, err = s.snapshot(ctx, res); return err })
			return doc, err
		})
		if err != nil {
			return err
		}
		tag = doc.tag
	} else if doc != nil {
		s.metrics.hits.Inc()
	}
	h := w.Header()
	h["Vary"], h["Etag"], h["Cache-Control"] = res.vary, []string{tag}, []string{noCache(s.Private || res.Personal)}
	s.setAge(h)
	if (doc == nil || !doc.spoiled) && notModified(r.Header, &answer{tag: tag}) {
		res.notModified.Inc()
		web.NotModified(w)
		return nil
	}
	s.send(w, r, res, doc)
	return nil
}

// snapshotTag returns the entity tag of a page of a snapshot that was read at the head.
func (s *Source) snapshotTag(res *resource, head publish.Head) string {
	sp := &span{head: head, end: res.cursor}
	return codedTag(s.etag(&res.request, sp), res.coding)
}

// snapshot reads, renders and compresses a page of a snapshot.
func (s *Source) snapshot(ctx context.Context, res *resource) (*cached, error) {
	r := &res.request
	reading, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found, err := s.log.Entities(reading, r.inLog, r.cursor, r.from, int(r.limit))
	switch {
	case errors.Is(err, publish.ErrTooLarge):
		return nil, s.tooLarge(r)
	case err != nil:
		return nil, fmt.Errorf("read the snapshot of feed %s: %w", r.Name, err)
	case !found.Known:
		last := found.Head.Position / r.limit * r.limit
		return nil, s.historyDiverged(r, &diverged{feed.At(last, found.Places[last].Digest)})
	}
	doc, err := s.encode(r, s.snapshotDocument(r, found))
	if err != nil {
		return nil, err
	}
	doc.tag = s.snapshotTag(res, found.Head)
	if res.coding != codingIdentity {
		doc.coding = []string{res.coding}
		doc.body, err = compress(doc.body, res.coding)
	}
	return doc, err
}

// snapshotURL returns the URL of the page of a snapshot after an entity, in the same format.
func (s *Source) snapshotURL(r *request, head feed.Cursor, from uuid.UUID) string {
	other := *r
	other.view, other.cursor, other.from = feed.Snapshot, head, from
	return s.url(&other)
}

// snapshotDocument adds the links. Each of them carries the head of the first page's moment.
func (s *Source) snapshotDocument(r *request, found *publish.Entities) *feed.Document {
	head := r.cursor
	if head.IsStart() {
		head = found.Head.Cursor()
	}
	d := &feed.Document{
		Description: r.Description, Author: s.Author, Home: s.PublicURL, Self: s.url(r), Next: s.at(r, feed.Replay, head), View: feed.Snapshot,
		Links: s.alternates(r), Page: feed.Page{Entries: r.seen(found.Entries), Cursor: head, Compacted: found.Head.Compaction.UpTo},
	}
	if found.Last != uuid.Nil {
		d.Next = s.snapshotURL(r, head, found.Last)
		if n := len(found.Entries); n == 0 || found.Entries[n-1].ID != found.Last {
			d.Through = &found.Last
		}
	}
	link := func(rel, href string) { d.Links = append(d.Links, feed.Link{Rel: rel, Href: href, Type: r.mediaType}) }
	if r.mediaType != feed.TypeCloudEvents {
		link("current", s.at(r, feed.Newest, feed.Cursor{}))
	}
	link("next", d.Next)
	return d
}
