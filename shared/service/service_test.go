package service

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

// open starts a service without a database, and returns its log and how it ended.
func open(t *testing.T, env map[string]string) (log string, err error) {
	t.Helper()
	var set Settings
	if err := daemon.Parse(env, &set); err != nil {
		return "", err
	}
	var out bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	p, err := Open(ctx, Service{Name: "test", Title: "Test", Addr: "127.0.0.1:0"}, set, slog.New(slog.NewTextHandler(&out, nil)))
	if err == nil {
		stop()
		err = p.Serve(ctx)
		p.Close()
	}
	stop()
	return out.String(), err
}

func TestAge(t *testing.T) {
	t.Parallel()
	var a Age
	if err := a.UnmarshalText([]byte("48h")); err != nil || time.Duration(a) != 48*time.Hour {
		t.Errorf("%v, %v", a, err)
	}
	for _, bad := range []string{"59m", "-48h", "7 days", "7", ""} {
		if err := a.UnmarshalText([]byte(bad)); err == nil || !strings.Contains(err.Error(), "at least 1h") || time.Duration(a) != 48*time.Hour {
			t.Errorf("%q gives %v, %v", bad, a, err)
		}
	}
}

func TestWarnsOfShutAccess(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 32)
	for name, x := range map[string]struct {
		env   map[string]string
		warns bool
	}{
		"by default":        {nil, true},
		"closed":            {map[string]string{"ACCESS": "closed"}, true},
		"open":              {map[string]string{"ACCESS": "open"}, false},
		"with a token":      {map[string]string{"TOKENS": "ada:operator:" + hash}, false},
		"open with a token": {map[string]string{"ACCESS": "open", "TOKENS": "ada:reader:" + hash}, false},
	} {
		log, err := open(t, x.env)
		if err != nil || strings.Contains(log, "level=WARN") != x.warns {
			t.Errorf("%s: %v\n%s", name, err, log)
		}
	}
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{
		"ACCESS=half", "HOSTS=a/b", "TOKENS=ada:operator:hunter2", "TOKENS_FILE=/nowhere/hunter2", "PUBLIC_URL=hunter2", "PUBLIC_URL=ftp://h",
		"PUBLIC_URL=http://u:hunter2@h", "PUBLIC_URL=http://h?x", "FEED_MAX_AGE=-1s", "FEED_MAX_AGE=500ms", "COMPACT_AFTER=59m", "COMPACT_AFTER=30 days", "TLS_CERT_FILE=cert.pem", "TRUSTED_PROXIES=somebody",
	} {
		name, value, _ := strings.Cut(setting, "=")
		_, err := open(t, map[string]string{name: value})
		if !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "ada:operator") {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}
