package main

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
)

var pictures = flag.String("pictures", "", "folder for pictures of every page that the browser looks at")

// Of axe.min.js in the npm package axe-core 4.14.1.
const axeDigest = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

// axe is the script that finds what keeps people out of a page; "" where it is not.
func axe(t *testing.T) string {
	t.Helper()
	file := os.Getenv("AXE_CORE")
	if file == "" {
		return ""
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if digest := fmt.Sprintf("%x", sha256.Sum256(text)); digest != axeDigest {
		t.Fatalf("%s is another file: its SHA-256 is %s", file, digest)
	}
	return string(text)
}

// check runs axe-core on the page: by the rules of WCAG 2.1, levels A and AA, or only by those about colours.
const check = `axe.run({ preload: false, resultTypes: ["violations"], runOnly: %s })
	.then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html + " " + n.failureSummary)))`

const (
	allRules    = `{ type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }`
	colourRules = `{ type: "rule", values: ["color-contrast", "link-in-text-block"] }`
)

// tooWide finds what is wider than the window, and tables that are made to fit into it and do not.
const tooWide = `[document.documentElement, ...document.querySelectorAll(".table:has(> .stacked)")].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText.slice(0, 200))`

// look looks at the page in the tab, all of its details open.
func (v *visit) look(t *testing.T, b *tab, looks []look) {
	t.Helper()
	at, err := evaluate[string](b, `document.querySelectorAll("details").forEach(d => { d.removeAttribute("name"); d.open = true }); location.href`)
	if strings.HasPrefix(at, "data:") {
		at = b.address
	}
	if err == nil && v.axe != "" {
		_, err = evaluate[chromedp.Void](b, v.axe)
	}
	if err != nil {
		t.Errorf("%s: %v", at, err)
		return
	}
	for i, l := range looks {
		b.put(t, l)
		where := at + ", " + l.name
		if over, err := evaluate[[]string](b, tooWide); err != nil || len(over) > 0 {
			t.Errorf("%s: what is wider than it may be is %q, %v", where, over, err)
		}
		if v.axe != "" {
			rules := allRules
			if slices.IndexFunc(looks, func(before look) bool { return before.width == l.width }) < i {
				rules = colourRules // the others are the same as before
			}
			found, err := evaluate[[]string](b, fmt.Sprintf(check, rules))
			if err != nil {
				t.Errorf("%s: %v", where, err)
				return
			}
			for _, violation := range found {
				t.Errorf("%s: %s", where, violation)
			}
		}
		if *pictures != "" {
			v.picture(t, b, l, at)
		}
	}
	b.blameless(t, at)
}

func (v *visit) picture(t *testing.T, b *tab, l look, address string) {
	t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	at, wrong := url.Parse(address)
	if err = errors.Join(err, wrong); err == nil {
		name := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(v.kind(at)+strings.Join(append([]string{""}, v.away...), " without "), "_")
		err = os.WriteFile(filepath.Join(*pictures, strings.Trim(name, "_")+"."+l.name+".png"), png, 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// owner names the service whose address it is, or the map, or nobody.
func (v *visit) owner(u *url.URL) string {
	at := u.Scheme + "://" + u.Host
	if strings.HasPrefix(v.mapURL(), at+"/") {
		return "map"
	}
	for _, s := range v.services {
		if v.url(s.name) == at {
			return s.name
		}
	}
	return ""
}

// kind is what an address of a service has in common with those that the same template answers.
func kind(u *url.URL) string {
	parts := strings.Split(u.Path, "/")
	for i, p := range parts {
		if strings.ContainsAny(p, "0123456789") || i > 0 && parts[i-1] == "parts" {
			parts[i] = "id"
		}
	}
	return strings.Join(parts, "/") + "?" + strings.Join(slices.Sorted(maps.Keys(u.Query())), "&")
}

func (v *visit) kind(u *url.URL) string { return v.owner(u) + kind(u) }

// A stop is a page on the way through all.
type stop struct {
	address, page string
	start, first  bool // is one to begin with, is the first of its kind
	turn          int  // another for the next of its kind
}

// crawl visits the pages at the start and some of each kind that links lead to, of services that are not away, and
// gives how many of each service.
func (v *visit) crawl(t *testing.T, start []string, ofKind int, visit func(t *testing.T, b *tab, at stop)) map[string]int {
	t.Helper()
	const tabs, most = 2, 200
	var open []*tab
	for range tabs {
		open = append(open, v.openTab(t))
	}
	kinds, seen, count := map[string]int{}, map[string]bool{}, map[string]int{}
	for next, atStart := start, true; len(next) > 0; atStart = false {
		pages := make(chan stop, len(next))
		for _, address := range next {
			u, err := url.Parse(address)
			if err != nil {
				t.Error(err)
				continue
			}
			// The map without a query loads itself again.
			if name := v.owner(u); name == "" || name == "map" && u.RawQuery == "" || slices.Contains(v.away, name) || seen[address] || kinds[v.kind(u)] >= ofKind && !atStart {
				continue
			}
			seen[address] = true
			kinds[v.kind(u)]++
			if page := page(t, address); page != "" {
				count[v.owner(u)]++
				pages <- stop{address, page, atStart, kinds[v.kind(u)] == 1, len(v.kind(u)) + kinds[v.kind(u)]}
			}
		}
		close(pages)
		if len(kinds) > most {
			t.Fatalf("there are more than %d kinds of pages: %v", most, kinds)
		}
		next = nil
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, b := range open {
			all.Go(func() {
				for p := range pages {
					if resp, err := chromedp.RunResponse(b.ctx, chromedp.Navigate(p.page)); err != nil || resp.Status != 200 {
						t.Errorf("%s: %v %v", p.address, resp, err)
						continue
					}
					b.address = p.address
					visit(t, b, p)
					links, err := evaluate[[]string](b, `[...document.querySelectorAll("a[href]")].map(a => new URL(a.getAttribute("href"), location.href).href.replace(/#.*/, ""))`)
					if err != nil {
						t.Errorf("%s: %v", p.address, err)
					}
					mu.Lock()
					next = append(next, links...)
					mu.Unlock()
				}
			})
		}
		all.Wait()
		slices.Sort(next)
	}
	return count
}

// page returns the address at which a browser looks at a page, "" where it is none. In a sandbox, such as that of the
// HTML of a mail, no script could look at it: it is taken out of there.
func page(t *testing.T, address string) string {
	t.Helper()
	header, body, err := get(address, "text/html,*/*;q=0.5")
	switch {
	case err != nil:
		t.Errorf("a link leads to nothing: %v", err)
		return ""
	case !strings.HasPrefix(header.Get("Content-Type"), "text/html"):
		return ""
	case strings.Contains(header.Get("Content-Security-Policy"), "sandbox"):
		return "data:text/html;charset=utf-8;base64," + base64.StdEncoding.EncodeToString(body)
	}
	return address
}

// withoutScripts checks that a page that has a script says the same without, whatever is counted meanwhile.
func withoutScripts(t *testing.T, b *tab) {
	t.Helper()
	const reading = `JSON.stringify([document.scripts.length, ...[...document.querySelectorAll("main :is(h1, h2, h3, .lead, .formats, dt)")].filter(e => !e.closest("details.row")).map(e => e.innerText.replace(/[0-9]+/g, "0"))])`
	with, err := evaluate[string](b, reading)
	if err != nil || strings.HasPrefix(with, "[0") {
		return
	}
	read := func(scripts bool) string {
		b.scripts(t, scripts)
		b.load(t, 200, chromedp.Reload())
		said, err := evaluate[string](b, reading)
		if err != nil {
			t.Error(err)
		}
		return said
	}
	// The company goes on meanwhile: only a page that did not change in between can be compared.
	for range 5 {
		before, without, after := read(true), read(false), read(true)
		if without == before || without == after {
			return
		}
		if before == after {
			t.Errorf("without scripts a page says %s; with them %s", without, before)
			return
		}
	}
	t.Error("the page changed at every look")
}
