package access

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The tokens that README.md shows are those of its entries, and a user beside one is the name of its entry.
func TestTokensOfReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	entries := regexp.MustCompile(`(?m)^\w+:(?:operator|reader)\S*:[0-9a-f]{64}$`).FindAllString(string(text), -1)
	var known Tokens
	if err := known.UnmarshalText([]byte(strings.Join(entries, "\n"))); err != nil || len(entries) < 2 {
		t.Fatalf("%d entries: %v", len(entries), err)
	}
	for _, shown := range regexp.MustCompile(`(?:-u (\w+):)?(datafeed_[A-Z2-7]{26})\b`).FindAllStringSubmatch(string(text), -1) {
		if found := known.find(shown[2]); found == nil || shown[1] != "" && shown[1] != found.Name {
			t.Errorf("%s is the token of no entry, or of another one", shown[0])
		}
	}
}
