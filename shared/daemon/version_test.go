package daemon

import (
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	t.Parallel()
	built := []debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "6ca5f9b4d1c20000"}, {Key: "vcs.modified", Value: "true"}}
	for version, x := range map[string]struct {
		settings []debug.BuildSetting
		want     string
	}{
		"v1.2.3":  {built[:2], "v1.2.3 6ca5f9b4d1c2 (go1.26.0)"},
		"(devel)": {built, "(devel) 6ca5f9b4d1c2 modified (go1.26.0)"},
		"v0.0.0-20261130015200-6ca5f9b4d1c2+dirty": {built, "v0.0.0-20261130015200-6ca5f9b4d1c2+dirty (go1.26.0)"},
		"v1.0.0": {nil, "v1.0.0 (go1.26.0)"},
	} {
		info := &debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: version}, Settings: x.settings}
		if got := versionOf(info); got != x.want {
			t.Errorf("%q, not %q", got, x.want)
		}
	}
	if Version() == "" {
		t.Error("no version")
	}
}
