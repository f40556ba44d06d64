package feedhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// coded returns the document in the answer's coding: from the cache, or rendered and compressed once, in a turn of the
// client. client is nil if no client asks.
func (s *Source) coded(ctx context.Context, client *http.Request, r *request, a *answer) (*cached, error) {
	if doc := s.cache.lookup(a.tag); doc != nil {
		s.metrics.hits.Inc()
		return doc, nil
	}
	s.metrics.misses.Inc()
	key := ""
	if client != nil {
		key = web.ClientKey(client) // now, since the client may leave before its turn
	}
	return s.made(ctx, key, r, a)
}

// made returns a document that is not in the cache. A document of a few entries in memory needs no turn, since readers
// may be waiting for it.
func (s *Source) made(ctx context.Context, client string, r *request, a *answer) (*cached, error) {
	turn := func(ctx context.Context, work func() error) error { return s.turns.take(ctx, client, work) }
	if a.entries != nil {
		turn = func(_ context.Context, work func() error) error { return work() }
	}
	return s.cache.get(ctx, a.tag, func(ctx context.Context) (doc *cached, err error) {
		if a.coding == codingIdentity {
			err = turn(ctx, func() (err error) { doc, err = s.render(ctx, r, a.span); return err })
			return doc, err
		}
		plain, err := s.made(context.WithoutCancel(ctx), client, r, &answer{span: a.span, coding: codingIdentity, tag: s.etag(r, a.span)})
		if err != nil {
			return nil, err
		}
		err = turn(ctx, func() error {
			body, err := compress(plain.body, a.coding)
			doc = &cached{
				tag: codedTag(plain.tag, a.coding), contentType: plain.contentType, link: plain.link, coding: []string{a.coding}, body: body,
				spoiled: plain.spoiled,
			}
			return err
		})
		return doc, err
	})
}

// render reads and renders the span. If something was compacted since it was located, the tag is another one.
func (s *Source) render(ctx context.Context, r *request, sp *span) (*cached, error) {
	sp, err := s.read(ctx, r.inLog, sp)
	switch {
	case errors.Is(err, publish.ErrTooLarge):
		return nil, s.tooLarge(r)
	case err != nil:
		return nil, fmt.Errorf("read entries %d to %d of feed %s: %w", sp.from+1, sp.to, r.Name, err)
	}
	doc, err := s.encode(r, s.document(r, sp))
	doc.tag = s.etag(r, sp)
	return doc, err
}

// encode returns the document in the representation of the request, without content coding.
func (s *Source) encode(r *request, doc *feed.Document) (*cached, error) {
	contentType := r.mediaType
	var body []byte
	var err error
	switch r.mediaType {
	case feed.TypeHTML:
		contentType = web.HTMLType
		body, err = s.page(r, doc)
	case feed.TypeAtom:
		contentType += "; charset=utf-8"
		body, err = doc.Atom()
	case feed.TypeEvents:
		body, err = doc.Events()
	case feed.TypeCloudEvents:
		body, err = doc.CloudEvents()
	default: // JSON is UTF-8 and takes no charset (RFC 8259 section 8.1)
		body, err = doc.JSON()
	}
	link := linkHeader(append([]feed.Link{{Rel: "self", Href: doc.Self, Type: r.mediaType}}, doc.Links...))
	return &cached{contentType: []string{contentType}, link: []string{link}, body: body, spoiled: slices.ContainsFunc(doc.Entries, spoiled)}, err
}

// spoiled reports whether the log has a payload that is no JSON in the entry's place, which its digest does not show.
func spoiled(e feed.Entry) bool { return !e.Deleted && string(e.Entity) == "null" }
