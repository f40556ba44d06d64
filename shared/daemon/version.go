package daemon

import (
	"runtime/debug"
	"strings"
)

// Version returns the version of the program's module, the commit that it was built from if that is known, and the
// version of Go: "v1.2.3 (go1.26.0)", "(devel) 6ca5f9b4d1c2 modified (go1.26.0)".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return versionOf(info)
}

func versionOf(info *debug.BuildInfo) string {
	words := []string{info.Main.Version}
	for _, s := range info.Settings {
		switch revision := s.Value[:min(len(s.Value), 12)]; {
		case strings.Contains(info.Main.Version, "-"): // a pseudo-version has the commit
		case s.Key == "vcs.revision":
			words = append(words, revision)
		case s.Key == "vcs.modified" && s.Value == "true":
			words = append(words, "modified")
		}
	}
	return strings.Join(append(words, "("+info.GoVersion+")"), " ")
}
