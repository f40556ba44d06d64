package subscribe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// schemaAge is how often a source is asked for its schema whose pages do not say which one it has.
const schemaAge = time.Minute

// A seenSchema is the source's schema, as it was when it was last asked for.
type seenSchema struct {
	mu     sync.Mutex
	asked  time.Time
	of     string   // its entity tag, as the page said for which it was asked
	etag   string   // as its answer said
	lacked []string // needed members that it lacked
}

// meetNeeds returns an error if the source's schema lacks members that the copy needs, so that the page after a place
// is not to be copied. It asks for the schema if a page has another one than the last page had, and again as long as
// it lacks something.
func (fr *fetcher) meetNeeds(ctx context.Context, after feedclient.Request, answer *feedclient.Answer) error {
	if len(fr.Needs) == 0 || answer.Page == nil || len(answer.Page.Entries) == 0 || !answer.Described {
		return nil
	}
	seen := &fr.schema
	seen.mu.Lock()
	defer seen.mu.Unlock()
	known := seen.of == answer.SchemaETag && (seen.of != "" || time.Since(seen.asked) < schemaAge)
	if !known || seen.asked.IsZero() || len(seen.lacked) > 0 {
		schema, etag, err := fr.client.Schema(ctx, fr.URL+"/schema", seen.etag)
		status, refused := errors.AsType[*feedclient.StatusError](err)
		switch {
		case refused && status.Status < http.StatusInternalServerError && status.Status != http.StatusTooManyRequests:
			seen.lacked, seen.etag = nil, "" // it has none, or none for this reader
		case errors.Is(err, feed.ErrPage):
			return fmt.Errorf("the schema of the source: %w", err)
		case err != nil:
			return err
		case schema != nil:
			seen.lacked, seen.etag = lacked(schema, fr.Needs), etag
		}
		seen.of, seen.asked = answer.SchemaETag, time.Now()
	}
	if len(seen.lacked) > 0 {
		return &lackedError{placeOf(after), seen.lacked}
	}
	return nil
}

// placeOf returns the place after which the request asks for a page.
func placeOf(r feedclient.Request) place {
	if r.Snapshot != nil {
		return place{snapshot: *r.Snapshot}
	}
	return place{cursor: r.After}
}

// A lackedError means that the source's schema lacks members that the copy needs.
type lackedError struct {
	after   place
	members []string
}

func (e *lackedError) Error() string {
	return fmt.Sprintf("the copy pauses before the page after %s: the schema of its source has no member %s", e.after.String(), strings.Join(e.members, ", "))
}

func (e *lackedError) Is(target error) bool { return target == ErrIncomplete }

// lacked returns the needed members that a JSON Schema does not describe.
func lacked(schema []byte, needs []string) (members []string) {
	var s any
	if json.Unmarshal(schema, &s) != nil {
		return nil
	}
	for _, member := range needs {
		if !describes(s, strings.Split(strings.ReplaceAll(member, "[]", ".[]"), ".")) {
			members = append(members, member)
		}
	}
	return members
}

// describes reports whether values of a schema may have the member at the path. Where the schema does not tell, they
// may.
func describes(schema any, path []string) bool {
	s, ok := schema.(map[string]any)
	if !ok || len(path) == 0 {
		return schema != false
	}
	for _, unread := range []string{"$ref", "$dynamicRef", "if", "patternProperties", "prefixItems"} {
		if s[unread] != nil {
			return true
		}
	}
	var parts []any
	for _, key := range []string{"anyOf", "oneOf", "allOf"} {
		list, _ := s[key].([]any)
		parts = append(parts, list...)
	}
	kind, named := "object", false
	if path[0] == "[]" {
		kind = "array"
		if items, has := s["items"]; has {
			return describes(items, path[1:])
		}
	} else if properties, is := s["properties"].(map[string]any); is {
		named = true
		if member, has := properties[path[0]]; has {
			return describes(member, path[1:])
		}
	}
	for _, part := range parts {
		if describes(part, path) {
			return true
		}
	}
	return len(parts) == 0 && !named && mayBe(s["type"], kind)
}

// mayBe reports whether the keyword type of a schema allows values of the kind.
func mayBe(types any, kind string) bool {
	list, several := types.([]any)
	for _, one := range list {
		if one == kind {
			return true
		}
	}
	return types == nil || !several && types == kind
}
