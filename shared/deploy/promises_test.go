package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each test that PROMISES.md names exists in each of the folders that it names.
func TestPromises(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../PROMISES.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 2 || cells[0] == "| promise" || cells[0] == "| ---" {
			continue
		}
		for group := range strings.SplitSeq(strings.TrimSuffix(cells[1], " |"), "; ") {
			tests, folders, found := strings.Cut(group, " in ")
			if !found {
				t.Errorf("%q names no folder", group)
			}
			for _, folder := range quoted(folders) {
				for _, test := range quoted(tests) {
					named++
					if !hasTest(t, filepath.Join(root, folder), test) {
						t.Errorf("%s: there is no %s", folder, test)
					}
				}
			}
		}
	}
	if named < 150 {
		t.Errorf("PROMISES.md names %d tests: has its form changed?", named)
	}
}

var code = regexp.MustCompile("`([^`]+)`")

// quoted returns the text between backquotes.
func quoted(text string) (found []string) {
	for _, m := range code.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

// hasTest reports whether the folder has the test, or the file of tests.
func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) == name {
			return true
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}
