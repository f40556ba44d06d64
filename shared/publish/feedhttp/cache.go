package feedhttp

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/singleflight"

	"github.com/edison-cars/data-feeds/shared/web"
)

const (
	cacheBytes  = 64 << 20
	fillTimeout = 30 * time.Second
)

// A cache keeps encoded documents by entity tag. An entity tag identifies every byte of its document. A full cache
// drops the document that was not requested for the longest time.
type cache struct {
	limit int64

	mu      sync.Mutex
	size    int64
	byTag   map[string]*list.Element
	recent  list.List // of *cached, the most recently requested in front
	filling singleflight.Group
}

// cached is a document in one content coding.
type cached struct {
	tag  string
	body []byte
	// Values of header fields. coding is nil for identity.
	contentType, link, coding, length []string
	spoiled                           bool // the tag stands for other entries: the document is for no cache, and for one request
}

func (c *cached) cost() int64 { return int64(len(c.body)+len(joined(c.link))+len(c.tag)) + 200 }

func newCache(limit int64) *cache {
	return &cache{limit: limit, byTag: map[string]*list.Element{}}
}

func (c *cache) lookup(tag string) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byTag[tag]
	if !ok {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cached)
}

func (c *cache) keep(doc *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byTag[doc.tag]; ok || doc.cost() > c.limit {
		return
	}
	c.byTag[doc.tag] = c.recent.PushFront(doc)
	for c.size += doc.cost(); c.size > c.limit; {
		oldest := c.recent.Back()
		gone := c.recent.Remove(oldest).(*cached)
		delete(c.byTag, gone.tag)
		c.size -= gone.cost()
	}
}

// drop empties the cache.
func (c *cache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.byTag)
	c.recent.Init()
	c.size = 0
}

// get returns the document with the tag. It calls render if the document is not cached; render may return a document
// with another tag, which is then kept by that. Requests at the same time share
// one rendering, which goes on if their clients leave.
func (c *cache) get(ctx context.Context, tag string, render func(context.Context) (*cached, error)) (*cached, error) {
	if doc := c.lookup(tag); doc != nil {
		return doc, nil
	}
	fill := func() (any, error) { return c.fill(context.WithoutCancel(ctx), tag, render) }
	if ctx.Done() == nil { // the caller does not leave
		doc, err, _ := c.filling.Do(tag, fill)
		return doc.(*cached), err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-c.filling.DoChan(tag, fill):
		return r.Val.(*cached), r.Err
	}
}

func (c *cache) fill(ctx context.Context, tag string, render func(context.Context) (*cached, error)) (doc *cached, err error) {
	defer func() {
		if p := recover(); p != nil { // no other goroutine recovers it
			doc, err = nil, fmt.Errorf("a document panicked: %s\n%s", web.Panicked(p), debug.Stack())
		}
	}()
	if doc := c.lookup(tag); doc != nil { // cached since get looked
		return doc, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	if doc, err = render(ctx); err != nil {
		return nil, err
	}
	if cap(doc.body) > len(doc.body)*5/4 { // zstd makes as much room as the document takes without it
		doc.body = bytes.Clone(doc.body)
	}
	doc.tag, doc.length = cmp.Or(doc.tag, tag), []string{strconv.Itoa(len(doc.body))}
	if !doc.spoiled {
		c.keep(doc)
	}
	return doc, nil
}

// Content codings (RFC 9110 section 8.4.1), the preferred ones first.
const (
	codingZstd     = "zstd" // RFC 8878
	codingGzip     = "gzip"
	codingIdentity = "identity"
)

// acceptedCoding chooses a coding by Accept-Encoding (RFC 9110 section 12.5.3): the highest q-value, and of equal ones
// the smaller answer. Without the field, or if it accepts none, the coding is identity.
func acceptedCoding(field string) string {
	best, bestQ := codingIdentity, 0.0
	q := map[string]float64{}
	for item := range strings.SplitSeq(field, ",") {
		name, parameters, _ := strings.Cut(item, ";")
		weight := 1.0
		if value, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(parameters)), "q="); ok {
			var err error
			if weight, err = strconv.ParseFloat(value, 64); err != nil || !(weight >= 0 && weight <= 1) {
				continue
			}
		}
		if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
			q[strings.TrimPrefix(name, "x-")] = weight
		}
	}
	for _, coding := range []string{codingZstd, codingGzip, codingIdentity} {
		weight, named := q[coding]
		if any, ok := q["*"]; !named && ok {
			weight = any
		}
		if weight > bestQ {
			best, bestQ = coding, weight
		}
	}
	return best
}

// codedTag returns the entity tag of the document in a coding, whose bytes are others. Its form is one that no proxy
// writes, so that a proxy that compresses by itself makes other tags.
func codedTag(tag, coding string) string {
	if coding == codingIdentity {
		return tag
	}
	return strings.TrimSuffix(tag, `"`) + "." + coding + `"`
}

// Compressing a page of a thousand entries at these levels takes less time than rendering it. Better levels make it 2 %
// smaller.
const (
	zstdLevel = zstd.SpeedFastest
	gzipLevel = 5
)

var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstdLevel))
})

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzipLevel) // the level is valid
	return w
}}

func compress(body []byte, coding string) ([]byte, error) {
	switch coding {
	case codingZstd:
		enc, err := zstdEncoder()
		if err != nil {
			return nil, err
		}
		return enc.EncodeAll(body, nil), nil
	case codingGzip:
		var b bytes.Buffer
		w := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(w)
		w.Reset(&b)
		if _, err := w.Write(body); err != nil {
			return nil, err
		}
		err := w.Close()
		return b.Bytes(), err
	default:
		return body, nil
	}
}
