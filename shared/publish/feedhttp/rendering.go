package feedhttp

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
)

// program is a hash of the running program, with all code and templates that render documents. Replicas of one build
// have the same.
var program = sync.OnceValue(func() string {
	h := sha256.New()
	file, err := os.Open("/proc/self/exe") // on Linux this is the running file, even if another one has taken its path
	if err != nil {
		var path string
		if path, err = os.Executable(); err == nil {
			file, err = os.Open(path)
		}
	}
	if err == nil {
		defer file.Close()
		_, err = io.Copy(h, file)
	}
	if err != nil {
		return uuid.NewString() // no other process has it, so each start changes all ETags
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
})

// rendering returns the part of ETags that stands for how entries are rendered. It changes with the program and, as
// settings may change words too, with the rendering of an empty entry.
func rendering(d served, author string) string {
	entry := feed.Entry{Position: 1, ID: uuid.NameSpaceOID, Version: 1, Updated: time.Unix(0, 0).UTC(), Entity: []byte(`{}`)}
	definition := ""
	if d.part != nil {
		definition = d.part.Definition()
	}
	return fmt.Sprintf("%s %t %q %x", program(), d.Schema != nil, definition, sha256.Sum256(documents(&feed.Document{Description: d.Description, Author: author, Page: feed.Page{Entries: []feed.Entry{entry}}})))
}

// documents returns the document as Atom and JSON, or nil if Show cannot take the entry.
func documents(doc *feed.Document) (both []byte) {
	defer func() { _ = recover() }()
	atom, _ := doc.Atom()
	json, _ := doc.JSON()
	return append(atom, json...)
}
