package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"time"
)

//go:embed assets
var assets embed.FS

var assetTags = func() map[string]string {
	tags := make(map[string]string)
	entries, _ := assets.ReadDir("assets")
	for _, e := range entries {
		body, _ := assets.ReadFile("assets/" + e.Name())
		tags[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(body))[:16]
	}
	return tags
}()

// assetURL returns a URL that changes with the file's content, so that browsers may keep the file for good.
func assetURL(name string) (string, error) {
	tag, ok := assetTags[name]
	if !ok {
		return "", fmt.Errorf("no asset %q", name)
	}
	return "/assets/" + name + "?v=" + tag, nil
}

// functionsVersion is the version of the output of the templates' functions: raise it when that output changes.
const functionsVersion = 3

// Fingerprint returns a text that changes with the layout, the assets, the templates in fsys and their functions.
func Fingerprint(fsys fs.FS) string {
	h := sha256.New()
	fmt.Fprintf(h, "functions %d\n", functionsVersion)
	for _, from := range []fs.FS{pages, assets, fsys} {
		err := fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			body, err := fs.ReadFile(from, name)
			fmt.Fprintf(h, "%s %d\n%s", name, len(body), body)
			return err
		})
		if err != nil {
			panic(err) // embedded
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// AssetPaths returns the paths of the style and the scripts of the pages, all in /assets/.
func AssetPaths() (paths []string) {
	for name := range assetTags {
		paths = append(paths, "/assets/"+name)
	}
	return paths
}

// ServeAsset answers a request for one of [AssetPaths]. Any other path is an error.
func ServeAsset(w http.ResponseWriter, r *http.Request) error {
	dir, name := path.Split(r.URL.Path)
	tag, ok := assetTags[name]
	if !ok || dir != "/assets/" {
		return NothingHere()
	}
	body, err := assets.ReadFile("assets/" + name)
	if err != nil {
		return fmt.Errorf("read asset: %w", err)
	}
	h := w.Header()
	h.Set("Etag", `"`+tag+`"`)
	h.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == tag {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
	return nil
}
