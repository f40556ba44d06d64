package feedclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// MaxBody is the limit of bytes that a client accepts for one page, before and after decompression.
const MaxBody = 64 << 20

// accepted are the content codings that withBody reads (RFC 9110 section 8.4.1).
const accepted = "zstd, gzip"

var errTooLong = fmt.Errorf("longer than %d MiB", MaxBody>>20)

const maxKept = 8 << 20

var buffers = sync.Pool{New: func() any { return new([]byte) }}

func putBuffer(b *[]byte) {
	if cap(*b) <= maxKept {
		buffers.Put(b)
	}
}

// withBody passes the decoded body to use, which must not keep it. The body is read completely first, so that a broken
// transfer is an error of the network, and content that cannot be decoded wraps feed.ErrPage.
func withBody(resp *http.Response, use func(body []byte) error) error {
	raw, plain := buffers.Get().(*[]byte), buffers.Get().(*[]byte)
	defer putBuffer(raw)
	defer putBuffer(plain)
	var err error
	if *raw, err = readTo(*raw, resp.Body); err != nil && !errors.Is(err, errTooLong) {
		return err
	}
	coding := strings.ToLower(resp.Header.Get("Content-Encoding"))
	switch {
	case err != nil:
	case coding == "", coding == "identity":
		plain = raw
	case coding == "zstd":
		*plain, err = unzstd(*plain, *raw)
	case coding == "gzip", coding == "x-gzip":
		*plain, err = gunzip(*plain, *raw)
	default:
		err = fmt.Errorf("expected one of the content codings %s, got %q", accepted, coding)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", feed.ErrPage, err)
	}
	return use(*plain)
}

// A countedBody counts the bytes that are read of it.
type countedBody struct {
	io.ReadCloser
	n int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

func readTo(b []byte, r io.Reader) ([]byte, error) {
	buffer := bytes.NewBuffer(b[:0])
	n, err := buffer.ReadFrom(io.LimitReader(r, MaxBody+1))
	if n > MaxBody {
		err = errTooLong
	}
	return buffer.Bytes(), err
}

var zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxBody), zstd.WithDecoderLowmem(true))
})

func unzstd(b, raw []byte) ([]byte, error) {
	dec, err := zstdDecoder()
	if err != nil {
		return b, err
	}
	plain, err := dec.DecodeAll(raw, b[:0])
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = errTooLong
	}
	return plain, err
}

var gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}

func gunzip(b, raw []byte) ([]byte, error) {
	r := gzipReaders.Get().(*gzip.Reader)
	defer gzipReaders.Put(r)
	if err := r.Reset(bytes.NewReader(raw)); err != nil {
		return b, err
	}
	return readTo(b, r)
}
