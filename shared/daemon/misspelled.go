package daemon

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
)

// WarnMisspelled logs a warning for each variable of env that is not a known setting, but looks like one: it resembles
// one, or begins as all of a family do, such as POLL_. The warning names the setting that is most like it, and no value.
func WarnMisspelled(ctx context.Context, env map[string]string, w io.Writer, known []string, families ...string) {
	var level Level
	if v := env["LOG_LEVEL"]; v != "" && level.UnmarshalText([]byte(v)) != nil {
		return // the program refuses it
	}
	logger := Logger(w, level)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if nearest := meant(name, known, families); nearest != "" {
			logger.WarnContext(ctx, "unknown setting", "name", name, "did_you_mean", nearest)
		}
	}
}

// perMistake is how many letters a name has for each that may be wrong: HOST, TOKEN and AMQP_URL are others' variables
// where HOSTS, TOKENS and SMTP_URL are settings.
const perMistake = 6

// goes is a variable that Go itself reads, and that looks like TLS_CERT_FILE.
const goes = "SSL_CERT_FILE"

func meant(name string, known, families []string) string {
	if slices.Contains(known, name) || name == goes {
		return ""
	}
	for _, family := range families {
		if strings.HasPrefix(name, family) {
			return within(len(name)+len(family), name, known)
		}
	}
	if len(name) < perMistake {
		return ""
	}
	return within(min(len(name)/perMistake, 2), name, known)
}
