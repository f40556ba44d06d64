package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// All wrong values of a service are reported at once, each on a line, without secrets.
func TestAllWrongSettings(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := run(t.Context(), []string{"mailer"}, map[string]string{
		"ADDR": "8090", "TOKENS_FILE": "missing", "ACCESS": "half", "PAGE_SIZE": "0", "POLL_WAIT": "2m", "MAIL_LIMIT": "many", "SMTP_URL": "http://u:hunter2@h", "LOG_LEVEL": "loud", "FEED_TOKEN": "hunter2 hunter2",
		"POLL_ORDERS": "often", "FEED_URL_CUSTOMERS": "sales", "STREAM_CUSTOMERS": "rabbit", "POLL_CUSTOMERS": "seldom",
	}, &out)
	if !errors.Is(err, daemon.ErrUsage) || strings.Contains(err.Error(), "hunter2") {
		t.Fatal(err)
	}
	lines := strings.Split(err.Error(), "\n")
	for _, name := range []string{
		`ADDR="8090": takes host:port`, "TOKENS_FILE: ", "ACCESS: ", "PAGE_SIZE: takes a whole number from 1 to 1000", "POLL_WAIT takes whole seconds", `MAIL_LIMIT="many": takes a whole number from 0`, "SMTP_URL: takes the URL of a mail server",
		"LOG_LEVEL: takes debug, info, warn or error", "FEED_TOKEN takes a token", `POLL_ORDERS: "often" is not a schedule`, "FEED_URL_CUSTOMERS takes the http or https URL", "STREAM_CUSTOMERS ", `POLL_CUSTOMERS: "seldom"`,
	} {
		found := 0
		for _, line := range lines {
			if strings.HasPrefix(line, name) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%d lines begin with %q:\n%v", found, name, err)
		}
	}
	if len(lines) != 13 {
		t.Errorf("%d lines:\n%v", len(lines), err)
	}
}

// A variable that looks like a misspelled setting is a warning with the right name. The service starts.
func TestMisspelledSettings(t *testing.T) {
	t.Parallel()
	log := new(journal)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"warehouse"}, map[string]string{
			"ADDR": "127.0.0.1:0", "ACCESS": "open", "DATABASE_URL": pgtest.URL(pgtest.New(t)), "FEED_URL_ORDERS": ordersFeed(t),
			"POLL_ORDER": "hunter2", "LOGLEVEL": "debug", "POLL_INVOICES": "@every 1s",
			"POLL_BUILDS": "@every 1s", "CAPACITY": "7", "FEED_URL_BOOKS": "http://localhost/feeds/books", "POLL_BOOKS": "@every 1s", "HOST": "x", "SMTP_URL": "smtp://h",
			"BUYER_KEY": "x", "CUSTOMERS_URL": "http://x", "STOREFRONT_URL": "http://x", "ERASED_FILE": "x", "SERVICES": "x=http://x", "LINK_HOST": "x", "SMTP_ADDR": "x", "MAIL_DIR": "x", // of other programs
		}, log)
	}()
	eventually(t, "it listens", func() bool { return listening.MatchString(log.String()) || len(ended) > 0 })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "unknown setting"); n != 3 || strings.Contains(log.String(), "hunter2") {
		t.Errorf("%d warnings:\n%s", n, log)
	}
	for _, want := range []string{"name=POLL_ORDER did_you_mean=POLL_ORDERS", "name=LOGLEVEL did_you_mean=LOG_LEVEL", "name=POLL_INVOICES did_you_mean=POLL_ORDERS"} {
		if !strings.Contains(log.String(), `level=WARN msg="unknown setting" `+want+"\n") {
			t.Errorf("no %s:\n%s", want, log)
		}
	}
}
