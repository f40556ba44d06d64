package check

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// stablePages have the same content while the source is asked, unless it is about to be sealed.
func (c *checker) stablePages() []string {
	return []string{after("0", 1), ".atom" + after("0", 1), ".json" + after("0", 2)}
}

func (c *checker) etags() error {
	if err := c.some(2); err != nil {
		return err
	}
	for _, rest := range c.stablePages() {
		a, err := c.get(rest)
		if err == nil {
			err = a.want(http.StatusOK)
		}
		if err != nil {
			return err
		}
		tag := a.header.Get("ETag")
		if !regexp.MustCompile(`^"[^"]+"$`).MatchString(tag) {
			return fmt.Errorf("the ETag of %s is %s", a.asked, tag)
		}
		opaque := strings.Trim(tag, `"`)
		for _, match := range []string{tag, "W/" + tag, `"other", ` + tag, tag + `, "other"`, "*", `"` + opaque + `-gzip"`, `"` + opaque + `;gzip"`} {
			same, err := c.get(rest, "If-None-Match", match)
			if err == nil {
				err = same.want(http.StatusNotModified)
			}
			if err != nil {
				return fmt.Errorf("If-None-Match: %s: %w", match, err)
			}
			if len(same.body) > 0 || same.header.Get("ETag") == "" || same.header.Get("Vary") != a.header.Get("Vary") || same.header.Get("Cache-Control") != a.header.Get("Cache-Control") {
				return fmt.Errorf("the 304 of %s has a body, or not the ETag, Vary and Cache-Control of the 200", a.asked)
			}
		}
		for _, match := range []string{`"other"`, `W/"other"`, `"` + opaque + `x"`} {
			if err := c.status(http.StatusOK, rest, "If-None-Match", match); err != nil {
				return fmt.Errorf("If-None-Match: %s: %w", match, err)
			}
		}
	}
	return nil
}

func (c *checker) etagsDiffer() error {
	if err := c.some(3); err != nil {
		return err
	}
	seen := map[string]string{}
	for _, x := range [][2]string{
		{".json" + after("0", 3), "identity"}, {".atom" + after("0", 3), "identity"}, {".html" + after("0", 3), "identity"},
		{".json" + after("0", 3), "gzip"}, {".json" + after("0", 2), "identity"}, {".json?limit=1", "identity"},
	} {
		a, err := c.get(x[0], "Accept-Encoding", x[1])
		if err == nil {
			err = a.want(http.StatusOK)
		}
		if err != nil {
			return err
		}
		if x[1] != "identity" && a.header.Get("Content-Encoding") == "" {
			continue // a source need not compress a short page
		}
		what := x[0] + " as " + x[1]
		if tag := a.header.Get("ETag"); seen[tag] != "" {
			return fmt.Errorf("%s has the ETag of %s", what, seen[tag])
		}
		seen[a.header.Get("ETag")] = what
	}
	return nil
}

func (c *checker) cacheControl() error {
	for _, rest := range []string{"", ".json", after("0", 1), after("0", 100), ".atom" + after("0", 100)} {
		a, err := c.get(rest)
		if err == nil {
			err = a.want(http.StatusOK)
		}
		if err != nil {
			return err
		}
		vary := "Accept, Accept-Encoding"
		if strings.HasPrefix(rest, ".") {
			vary = "Accept-Encoding"
		}
		if got := a.header.Get("Vary"); got != vary {
			return fmt.Errorf("%s has Vary %q, not %q", a.asked, got, vary)
		}
	}
	p, err := c.page(after("0", 1))
	if err != nil {
		return err
	}
	control := p.answer.header.Get("Cache-Control")
	final := regexp.MustCompile(`^(public|private), max-age=31536000, immutable$`).MatchString(control)
	if final != *p.DataFeed.Sealed || final && c.Token != "" && !strings.HasPrefix(control, "private") {
		return fmt.Errorf("a page that says sealed %t has Cache-Control %q", *p.DataFeed.Sealed, control)
	}
	if !final && !regexp.MustCompile(`no-cache|max-age=\d`).MatchString(control) {
		return fmt.Errorf("a page that is not sealed has Cache-Control %q", control)
	}
	return nil
}

func (c *checker) lastModified() error {
	newest, err := c.get("?limit=1")
	if err != nil {
		return err
	}
	if newest.header.Get("Last-Modified") != "" {
		return fmt.Errorf("the newest page has Last-Modified")
	}
	p, err := c.page(after("0", 1))
	if err != nil {
		return err
	}
	if !*p.DataFeed.Sealed {
		if p.answer.header.Get("Last-Modified") != "" {
			return fmt.Errorf("a page that is not sealed has Last-Modified")
		}
		return skipError("no page is sealed")
	}
	at, err := http.ParseTime(p.answer.header.Get("Last-Modified"))
	if err != nil {
		return fmt.Errorf("a sealed page has Last-Modified %q", p.answer.header.Get("Last-Modified"))
	}
	if err := c.status(http.StatusNotModified, after("0", 1), "If-Modified-Since", at.Format(http.TimeFormat)); err != nil {
		return err
	}
	return c.status(http.StatusOK, after("0", 1), "If-Modified-Since", at.Add(time.Hour).Format(http.TimeFormat))
}
