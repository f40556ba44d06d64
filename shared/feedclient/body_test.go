package feedclient

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// encoded returns text in a content coding.
func encoded(t *testing.T, coding, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch coding {
	case "zstd":
		w, err = zstd.NewWriter(&b)
	case "gzip":
		w = gzip.NewWriter(&b)
	default:
		return []byte(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err = w.Write([]byte(text)); err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func coded(coding string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", feed.TypeJSONFeed)
		w.Header().Set("Content-Encoding", coding)
		_, _ = w.Write(body)
	}
}

func TestClientCodings(t *testing.T) {
	t.Parallel()
	corrupt := func(body []byte) []byte {
		body = bytes.Clone(body)
		body[len(body)-2] ^= 1 // in the checksum
		return body
	}
	for _, coding := range []string{"zstd", "gzip"} {
		good := encoded(t, coding, emptyPage)
		answer, err := asked(t, "", func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Accept-Encoding"); got != "zstd, gzip" {
				t.Errorf("it accepts %q", got)
			}
			coded(coding, good)(w, r)
		})
		if err != nil || answer.Page == nil || !answer.Page.UpToDate {
			t.Errorf("%s: %+v, %v", coding, answer, err)
		}
		for name, bad := range map[string][]byte{
			"torn": good[:len(good)-5], "corrupt": corrupt(good), "not it": []byte(emptyPage), "empty": {}, "followed by more": append(bytes.Clone(good), "more"...),
			"twice": append(bytes.Clone(good), good...),
		} {
			if answer, err := asked(t, "", coded(coding, bad)); !errors.Is(err, feed.ErrPage) {
				t.Errorf("%s that is %s: %+v, %v", coding, name, answer, err)
			}
		}
	}
	if _, err := asked(t, "", coded("br", []byte(emptyPage))); !errors.Is(err, feed.ErrPage) || !strings.Contains(err.Error(), `got "br"`) {
		t.Errorf("a coding that was not asked for: %v", err)
	}
}

func TestClientTakesNoMoreThanMaxBody(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "the largest pages")
	exact := emptyPage + strings.Repeat(" ", MaxBody-len(emptyPage))
	for _, coding := range []string{"zstd", "gzip", "identity"} {
		if answer, err := asked(t, "", coded(coding, encoded(t, coding, exact))); err != nil || !answer.Page.UpToDate {
			t.Errorf("%s of MaxBody bytes: %v", coding, err)
		}
		if _, err := asked(t, "", coded(coding, encoded(t, coding, exact+" "))); !errors.Is(err, feed.ErrPage) || !strings.Contains(err.Error(), "longer than 64 MiB") {
			t.Errorf("%s of one more: %v", coding, err)
		}
	}
}

func TestClientProblemInACoding(t *testing.T) {
	t.Parallel()
	for _, coding := range []string{"zstd", "gzip"} {
		_, err := asked(t, "", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", feed.TypeProblem)
			w.Header().Set("Content-Encoding", coding)
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write(encoded(t, coding, `{"detail":"Later."}`))
		})
		if err == nil || !strings.HasSuffix(err.Error(), "Later.") {
			t.Errorf("%s: %v", coding, err)
		}
	}
}

func TestPagesShareNoMemory(t *testing.T) {
	t.Parallel()
	const body = `{"version":"https://jsonfeed.org/version/1.1","_datafeed":{"cursor":"1-0123456789ab","up_to_date":true,"head":"1-0123456789ab"},"items":[
		{"id":"urn:uuid:018f4e7c-5d1b-7c3a-9f00-2b6d1c8e4a11","date_modified":"2026-11-23T08:00:00.000123Z","_datafeed":{"position":1,"version":1,"entity":{"a":"<&>"}}}]}`
	first, err := asked(t, "", coded("zstd", encoded(t, "zstd", body)))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := asked(t, "", coded("zstd", encoded(t, "zstd", emptyPage+strings.Repeat(" ", len(body))))); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(first.Page.Entries[0].Entity); got != `{"a":"<&>"}` {
		t.Errorf("a page that was read later wrote over an entity: %s", got)
	}
}
