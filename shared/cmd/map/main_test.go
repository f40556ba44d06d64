package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

func TestBadSettings(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{
		"SERVICES=", "SERVICES=sales", "FEED_TOKEN=hunter2 hunter2", "FEED_TOKEN=hunter2\r", "LINK_HOST=a b", "LINK_HOST=http://x", "LINK_HOST=x:80", "LINK_HOST=::1",
	} {
		name, value, _ := strings.Cut(setting, "=")
		env := map[string]string{"SERVICES": "sales=http://localhost:8080", "ADDR": "localhost"} // which has no port: it does not run
		env[name] = value
		err := run(t.Context(), nil, env, io.Discard)
		if !errors.Is(err, daemon.ErrUsage) || !strings.HasPrefix(err.Error(), name) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", setting, err)
		}
	}
}
