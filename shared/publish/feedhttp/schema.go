package feedhttp

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"

	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/web"
)

func (s *Source) schemaURL(name string) string { return s.PublicURL + "/feeds/" + name + "/schema" }

// schemaTag returns the entity tag of a schema. Pages have it in the field Link, so that their readers need not ask for
// the schema to know that it is the same.
func schemaTag(schema []byte) string {
	sum := sha256.Sum256(schema)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:15]) + `"`
}

// serveSchema answers with the JSON Schema of a feed's entities.
func (s *Source) serveSchema(w http.ResponseWriter, r *http.Request, name string) error {
	d, found := s.described.Load().find(name)
	switch {
	case !found:
		return noFeed("There is no feed of this name here.", s.PublicURL)
	case d.Schema == nil:
		return noFeed(fmt.Sprintf("The feed %s declares no schema of its entities.", name), s.PublicURL)
	}
	tag := schemaTag(d.Schema)
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", noCache(s.Private))
	if web.MatchesETag(r.Header.Values("If-None-Match"), tag, true) {
		web.NotModified(w)
		return nil
	}
	web.Send(w, r, http.StatusOK, feed.TypeSchema, d.Schema)
	return nil
}
