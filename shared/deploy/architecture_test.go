package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var namedFile = regexp.MustCompile("`([a-z_/-]*[a-z_]+\\.go)`")

// Each Go file that ARCHITECTURE.md names exists, by its path or in one of the packages that the document describes.
func TestArchitectureNamesFiles(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	named := namedFile.FindAllStringSubmatch(string(text), -1)
	for _, match := range named {
		found := 0
		for _, folder := range []string{"", "sales-feed/sales", "shared/publish", "shared/publish/feedhttp", "shared/subscribe"} {
			if _, err := os.Stat(filepath.Join(root, folder, match[1])); err == nil {
				found++
			}
		}
		if found == 0 {
			t.Errorf("there is no file %s", match[1])
		}
	}
	if len(named) < 10 {
		t.Errorf("ARCHITECTURE.md names %d files: has its form changed?", len(named))
	}
}
