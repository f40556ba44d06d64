package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/sales-feed/sales"
	"github.com/edison-cars/data-feeds/shared/daemon"
)

func TestToken(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"token", "warehouse"}, nil, &out); err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^(datafeed_[A-Z2-7]{26,})$(?s:.*)^(warehouse:reader:([0-9a-f]{64}))$`).FindStringSubmatch(out.String())
	if found == nil {
		t.Fatal(out.String())
	}
	if sum := sha256.Sum256([]byte(found[1])); hex.EncodeToString(sum[:]) != found[3] {
		t.Errorf("the hash is not the token's: %s", out.String())
	}
	if err := daemon.Parse(map[string]string{"TOKENS": found[2]}, new(sales.Settings)); err != nil {
		t.Error(err)
	}
	for args, entry := range map[string]string{"--operator ada": "\nada:operator:", "--feeds orders,builds relay": "\nrelay:reader=orders+builds:"} {
		out.Reset()
		if err := run(t.Context(), strings.Fields("token "+args), nil, &out); err != nil || !strings.Contains(out.String(), entry) {
			t.Errorf("%s: %v %s", args, err, out.String())
		}
	}
	for _, args := range [][]string{{"token"}, {"token", "a", "b"}, {"token", "a:b"}, {"token", ""}, {"token", "--operator", "--feeds", "orders", "a"}, {"token", "--feeds", "Or ders", "a"}, {"token", "--feeds", "", "a"}, {"token", "--feeds=", "a"}, {"token", "--feeds", ",", "a"}, {"token", "--feeds", "orders,", "a"}, {"tokens", "a"}, {"--loud"}, {"customers", "a"}, {"serve", "a"}, {"customers", "--loud"}} {
		if err := run(t.Context(), args, nil, &out); !errors.Is(err, daemon.ErrUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--version"}, nil, &out); err != nil || !regexp.MustCompile(`^sales-feed \S.*\(go1\..*\)\n$`).MatchString(out.String()) {
		t.Errorf("%v %s", err, &out)
	}
	for args, says := range map[string]string{
		"custmers": `there is no command "custmers"; did you mean "customers"?`,
		"tokens":   `there is no command "tokens"; did you mean "token"?`,
		"orders":   `there is no command "orders"; see sales-feed --help`,
		"republsh": `there is no command "republsh"; did you mean "republish"?`,
	} {
		if err := run(t.Context(), []string{args}, nil, &out); !errors.Is(err, daemon.ErrUsage) || err.Error() != says {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// All wrong values are reported at once, and a misspelled setting is a warning.
func TestSettings(t *testing.T) {
	t.Parallel()
	for _, app := range []string{"", "customers", "serve"} {
		var out bytes.Buffer
		err := run(t.Context(), strings.Fields(app), map[string]string{
			"ACCESS": "half", "FEED_MAX_AGE": "500ms", "LOG_LEVEL": "", "TRUSTED_PROXIES": "somebody", "BUYER_KEYS": "hunter2", "DATABASE_URL": "hunter2", "DATABASEURL": "hunter2",
			"POLL_ORDERS": "x", "POLL_WAIT": "x", "PAGE_SIZE": "x", "FEED_URL_CUSTOMERS": "x", "STREAM_ORDERS": "x", "MAIL_LIMIT": "x", "CAPACITY": "x", "CLOCK_SPEED": "x", "AMQP_URL": "x",
			"PICKUP": "x", "RETURN": "x", "LEAD_SPEED": "x", "FEED_TOKEN": "x", "PLAIN_HOSTS": "x", "SERVICES": "x", "LINK_HOST": "x", "SMTP_ADDR": "x", "MAIL_DIR": "x", "HOST": "x", // of other programs
		}, &out)
		if !errors.Is(err, daemon.ErrUsage) || strings.Count(err.Error(), "\n") != 2 || !regexp.MustCompile(`(?s)^ACCESS: .*\nTRUSTED_PROXIES: .*\nFEED_MAX_AGE takes `).MatchString(err.Error()) {
			t.Errorf("%s: %v", app, err)
		}
		for _, warning := range []string{"name=BUYER_KEYS did_you_mean=BUYER_KEY\n", "name=DATABASEURL did_you_mean=DATABASE_URL\n"} {
			if !strings.Contains(out.String(), `level=WARN msg="unknown setting" `+warning) {
				t.Errorf("%s: no %s in %s", app, warning, &out)
			}
		}
		if strings.Count(out.String(), "\n") != 2 {
			t.Errorf("%s: %s", app, &out)
		}
	}
	err := run(t.Context(), nil, map[string]string{"DATABASE_READ_URL": "postgres://db2/sales"}, io.Discard)
	if !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), "DATABASE_READ_URL") {
		t.Errorf("standbys of a private database: %v", err)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	common := []string{"sales-feed token [--operator | --feeds orders,builds] NAME", "sales-feed customers", "sales-feed serve", "\n  ACCESS ", "\n  HOSTS ", "\n  TOKENS ", "\n  TOKENS_FILE ", "\n  TLS_CERT_FILE ", "\n  TLS_KEY_FILE ", "\n  TRUSTED_PROXIES ", "\n  ACCESS_LOG ", "\n  DATABASE_URL "}
	for args, own := range map[string][]string{
		"--help":           {"Settings of sales ", "127.0.0.1:8080", "\n  COMPACT_AFTER ", "\n  CUSTOMERS_URL ", "\n  BUYER_KEY ", "\n  BUYER_KEY_FILE "},
		"customers --help": {"Settings of customers ", "127.0.0.1:8081", "\n  COMPACT_AFTER ", "\n  STOREFRONT_URL ", "\n  SMTP_URL ", "\n  BUYER_KEY ", "\n  BUYER_KEY_FILE "},
		"serve --help":     {"Settings of serve ", "127.0.0.1:8082", "\n  ERASED_FILE ", "\n  FEED_MAX_AGE ", "\n  COMPACT_AFTER "},
	} {
		var out bytes.Buffer
		_ = run(t.Context(), strings.Fields(args), nil, &out)
		for _, part := range append(own, common...) {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s: no %q in %s", args, part, out.String())
			}
		}
	}
}
