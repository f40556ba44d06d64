package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	for _, args := range [][]string{{"token"}, {"token", "a", "b"}, {"token", "a:b"}, {"token", ""}, {"token", "--operator", "--feeds", "orders", "a"}, {"token", "--feeds", "Or ders", "a"}, {"token", "--feeds", "", "a"}, {"token", "--feeds=", "a"}, {"token", "--feeds", ",", "a"}, {"token", "--feeds", "orders,", "a"}, {"tokens", "a"}, {"--loud"}, {"customers", "a"}, {"customers", "--loud"}} {
		if err := run(t.Context(), args, nil, &out); !errors.Is(err, daemon.ErrUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	common := []string{"sales-feed token [--operator | --feeds orders,builds] NAME", "sales-feed customers", "\n  ACCESS ", "\n  HOSTS ", "\n  TOKENS ", "\n  TOKENS_FILE ", "\n  TLS_CERT_FILE ", "\n  TLS_KEY_FILE ", "\n  TRUSTED_PROXIES ", "\n  ACCESS_LOG ", "\n  BUYER_KEY ", "\n  BUYER_KEY_FILE "}
	for args, own := range map[string][]string{
		"--help":           {"Settings of sales ", "127.0.0.1:8080", "\n  CUSTOMERS_URL "},
		"customers --help": {"Settings of customers ", "127.0.0.1:8081", "\n  STOREFRONT_URL ", "\n  SMTP_URL "},
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
