package web

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
)

func readers(t *testing.T, list string) Readers {
	t.Helper()
	var r Readers
	if err := r.UnmarshalText([]byte(list)); err != nil {
		t.Fatal(err)
	}
	return r
}

// whoAsks answers with the reader's name.
func whoAsks(r Readers) func(*gin.Engine) {
	return func(e *gin.Engine) {
		GET(e, "/open", func(c *gin.Context) { c.String(http.StatusOK, "<%s>", Reader(c)) })
		GET(e.Group("/feeds", r.Require()), "/orders", func(c *gin.Context) { c.String(http.StatusOK, "<%s>", Reader(c)) })
	}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestTokens(t *testing.T) {
	t.Parallel()
	old, oldHash := NewToken()
	renewed, renewedHash := NewToken()
	other, otherHash := NewToken()
	unknown, _ := NewToken()
	url, _ := newServer(t, whoAsks(readers(t, "warehouse:"+oldHash+", warehouse:"+strings.ToUpper(renewedHash)+",dashboard:"+otherHash)))
	const failed = `Bearer realm="feeds", error="invalid_token"`
	for _, x := range []struct {
		name, authorization, who, challenge string
	}{
		{"none", "", "", `Bearer realm="feeds"`},
		{"a token", "Bearer " + old, "warehouse", ""},
		{"its second one", "bearer  " + renewed, "warehouse", ""},
		{"another reader's", "BEARER " + other, "dashboard", ""},
		{"as password, without a name", basic("", other), "dashboard", ""},
		{"as password, with its reader's name", basic("dashboard", other), "dashboard", ""},
		{"as password, with another's name", basic("warehouse", other), "", failed},
		{"as user", basic(other, ""), "", failed},
		{"a token of somewhere else", "Bearer " + unknown, "", failed},
		{"a token of somewhere else, as password", basic("", unknown), "", failed},
		{"a part of one", "Bearer " + old[:len(old)-1], "", failed},
		{"one and more", "Bearer " + old + "A", "", failed},
		{"its hash", "Bearer " + oldHash, "", failed},
		{"an endless one", "Bearer " + strings.Repeat("A", maxToken+1), "", failed},
		{"an empty one", "Bearer ", "", failed},
		{"without a scheme", old, "", failed},
		{"another scheme", "Token " + old, "", failed},
		{"broken Basic", "Basic " + old, "", failed},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			var header []string
			if x.authorization != "" {
				header = []string{"Authorization", x.authorization}
			}
			resp, body := ask(t, "GET", url+"/feeds/orders", nil, header...)
			if x.who != "" {
				if body != "<"+x.who+">" {
					t.Errorf("%d %s", resp.StatusCode, body)
				}
				return
			}
			p := wantProblem(t, resp, body, http.StatusUnauthorized)
			offers := resp.Header.Values("WWW-Authenticate")
			if len(offers) != 2 || offers[0] != x.challenge || offers[1] != `Basic realm="feeds", charset="UTF-8"` {
				t.Errorf("WWW-Authenticate %q", offers)
			}
			if p.Detail == "" || strings.Contains(body, "edison_") {
				t.Error(body)
			}
		})
	}
	t.Run("in the URL does not count", func(t *testing.T) {
		t.Parallel()
		resp, body := ask(t, "GET", url+"/feeds/orders?access_token="+old, nil)
		wantProblem(t, resp, body, http.StatusUnauthorized)
	})
	t.Run("in two fields does not count", func(t *testing.T) {
		t.Parallel()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/feeds/orders", nil)
		req.Header["Authorization"] = []string{"Bearer " + old, "Bearer " + other}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Error(resp.Status)
		}
	})
	t.Run("HEAD needs one too", func(t *testing.T) {
		t.Parallel()
		if resp, _ := ask(t, "HEAD", url+"/feeds/orders", nil); resp.StatusCode != http.StatusUnauthorized {
			t.Error(resp.Status)
		}
	})
	t.Run("elsewhere needs none", func(t *testing.T) {
		t.Parallel()
		for _, header := range [][]string{nil, {"Authorization", "Bearer " + unknown}, {"Authorization", "Bearer " + old}} {
			if _, body := ask(t, "GET", url+"/open", nil, header...); body != "<>" {
				t.Error(body)
			}
		}
	})
}

func TestNoTokensLetEverybodyIn(t *testing.T) {
	t.Parallel()
	url, _ := newServer(t, whoAsks(Readers{}))
	for _, header := range [][]string{nil, {"Authorization", "Bearer something"}} {
		if _, body := ask(t, "GET", url+"/feeds/orders", nil, header...); body != "<>" {
			t.Error(body)
		}
	}
}

func TestNewToken(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		token, hash := NewToken()
		if seen[token] || len(token) < len(tokenPrefix)+26 || strings.Trim(token[len(tokenPrefix):], "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
			t.Fatalf("token %s", token)
		}
		seen[token] = true
		if len(hash) != 64 || strings.Contains(hash, token) {
			t.Fatalf("hash %s", hash)
		}
	}
}

func TestReadersAreRefusedWithoutRepeatingThem(t *testing.T) {
	t.Parallel()
	token, hash := NewToken()
	_, other := NewToken()
	for _, list := range []string{
		"", ",", "warehouse", "warehouse:", ":" + hash, "warehouse:" + token, "warehouse:" + hash + "00", "warehouse:" + hash[:62],
		"ware house:" + hash, "9:" + hash, "wäre:" + hash, strings.Repeat("w", 65) + ":" + hash, "warehouse:" + hash + ",", "warehouse:" + other + ";dashboard:" + hash,
		"warehouse:" + hash + ",dashboard:" + hash,
	} {
		err := new(Readers).UnmarshalText([]byte(list))
		if err == nil {
			t.Errorf("%q is taken", list)
		} else if strings.Contains(err.Error(), token) || strings.Contains(err.Error(), hash) {
			t.Errorf("%v", err)
		}
	}
}

// The check runs on every poll.
func TestTokenCheckAllocates(t *testing.T) {
	token, hash := NewToken()
	r := readers(t, "warehouse:"+hash)
	req := httptest.NewRequest("GET", "/feeds/orders", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	if n := testing.AllocsPerRun(100, func() {
		if r.identify(req) == nil {
			t.Error("not known")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
