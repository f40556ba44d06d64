package feedhttp

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"

	"github.com/edison-cars/data-feeds/shared/web"
)

const schemaType = "application/schema+json"

func (s *Source) schemaURL(name string) string { return s.PublicURL + "/feeds/" + name + "/schema" }

// serveSchema answers with the JSON Schema of a feed's entities.
func (s *Source) serveSchema(w http.ResponseWriter, r *http.Request, name string) error {
	d, found := s.described.Load().find(name)
	switch {
	case !found:
		return noFeed("There is no feed of this name here.", s.PublicURL)
	case d.Schema == nil:
		return noFeed(fmt.Sprintf("The feed %s declares no schema of its entities.", name), s.PublicURL)
	}
	sum := sha256.Sum256(d.Schema)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:15]) + `"`
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", noCache(s.Private))
	if web.MatchesETag(r.Header.Values("If-None-Match"), tag, true) {
		web.NotModified(w)
		return nil
	}
	web.Send(w, r, http.StatusOK, schemaType, d.Schema)
	return nil
}
