package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// unclear lists patterns of prose that a reader has to read twice, and what to write instead.
var unclear = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`^\s*// \w+ gives (a|an|the|all|what|those|how|whether) `), `"returns"`},
	{regexp.MustCompile(`(^|[.;:] |// |-- |")Who(ever)? [a-z]+ [^?]*$`), `the thing that acts, such as "a reader that"`},
	{regexp.MustCompile(`\b[Ww]hoever\b`), `the thing that acts`},
	{regexp.MustCompile(`//.*\b(nil|""): [a-z]`), `"or nil if", "nil means"`},
	{regexp.MustCompile(`\banew\b`), `"again", "resync", "start over"`},
	{regexp.MustCompile(`\b(is|are) away\b`), `"is down"`},
	{regexp.MustCompile(`\bof itself\b`), `"by itself", "in the background"`},
}

// TestWords checks the prose of the code and the pages for what a machine can see. CONTRIBUTING.md has the style.
func TestWords(t *testing.T) {
	t.Parallel()
	kinds := map[string]bool{".go": true, ".md": true, ".sql": true, ".html": true, ".js": true}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "vendor" || entry.Name() == ".git" || entry.Name() == ".edison"):
			return filepath.SkipDir
		case entry.IsDir() || !kinds[filepath.Ext(file)] || entry.Name() == "words_test.go":
			return nil
		}
		text, err := os.ReadFile(file)
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			for _, u := range unclear {
				if found := u.pattern.FindString(strings.TrimSuffix(line, "\n")); found != "" {
					t.Errorf("%s:%d: %q: write %s", file, n, strings.TrimSpace(found), u.instead)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
