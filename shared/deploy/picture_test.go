package deploy_test

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/dev/topology"
	"github.com/edison-cars/data-feeds/shared/directory"
)

var update = flag.Bool("update", false, "rewrite the picture of the company, and release the schemas of the contracts")

// The README's picture of the company is what the map makes of compose.yaml.
func TestPicture(t *testing.T) {
	t.Parallel()
	const path = root + "/.github/company.svg"
	project := load(t)
	var services directory.Services
	if err := services.UnmarshalText([]byte(value(project.Services["map"], "SERVICES"))); err != nil {
		t.Fatal(err)
	}
	var states []topology.State
	onThisMachine := regexp.MustCompile(`//[^:/]+:`)
	for _, s := range services {
		state := topology.State{Name: s.Name, URL: onThisMachine.ReplaceAllString(s.URL, "//localhost:")}
		for name, v := range project.Services[s.Name].Environment {
			if feed, ok := strings.CutPrefix(name, "FEED_URL_"); ok {
				state.Reads = append(state.Reads, topology.Copy{
					Feed: strings.ToLower(feed), URL: onThisMachine.ReplaceAllString(*v, "//localhost:"),
					Schedule: value(project.Services[s.Name], "POLL_"+feed),
				})
			}
		}
		states = append(states, state)
	}
	want, err := topology.Picture(states)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what compose.yaml says, %v: go test ./shared/deploy -update", path, err)
	}
}
