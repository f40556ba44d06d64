package sales

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/access"
	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// parsed returns the settings that the variables make.
func parsed(t *testing.T, env map[string]string) (settings Settings) {
	t.Helper()
	open := map[string]string{"ACCESS": "open"}
	maps.Copy(open, env)
	if err := daemon.Parse(open, &settings); err != nil {
		t.Fatal(err)
	}
	return settings
}

func TestFeedTokens(t *testing.T) {
	t.Parallel()
	token, hash := access.NewToken()
	s := openWith(t, parsed(t, map[string]string{"ACCESS": "closed", "TOKENS": "warehouse:reader:" + hash}))
	_, o := s.buy(t, twoOhms)
	t.Run("the feeds and the metrics need one", func(t *testing.T) {
		for _, path := range []string{"/feeds", "/feeds/orders", "/feeds/orders.atom", "/feeds/orders.html", "/feeds/orders?after=0", "/feeds/none", "/metrics"} {
			resp, body := s.do(t, "GET", path, "")
			if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") == "" || strings.Contains(body, o.ID.String()) {
				t.Errorf("%s without a token: %d %s", path, resp.StatusCode, body)
			}
			want := http.StatusOK
			if path == "/feeds/none" {
				want = http.StatusNotFound
			}
			resp, _ = s.do(t, "GET", path, "", "Authorization", "Bearer "+token)
			if resp.StatusCode != want {
				t.Errorf("%s with a token: %d", path, resp.StatusCode)
			}
			if kept := resp.Header.Get("Cache-Control"); strings.HasPrefix(path, "/feeds/orders") && !strings.HasPrefix(kept, "private") {
				t.Errorf("%s may be kept by others: %s", path, kept)
			}
		}
	})
	t.Run("the shop does not", func(t *testing.T) {
		for _, path := range []string{"/", "/models", "/orders/" + o.ID.String(), "/livez", "/readyz", "/assets/style.css"} {
			if resp, _ := s.do(t, "GET", path, ""); resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
		}
	})
	t.Run("a subscriber reads with it, or with it in the URL", func(t *testing.T) {
		for token, url := range map[string]string{token: s.URL, "": strings.Replace(s.URL, "//", "//warehouse:"+token+"@", 1), "other": strings.Replace(s.URL, "//", "//:"+token+"@", 1)} {
			answer, err := feedclient.New(token).Get(t.Context(), feedclient.Request{URL: url + "/feeds/orders", Limit: 10})
			if err != nil || len(answer.Page.Entries) != 1 {
				t.Error(err)
			}
		}
		_, err := feedclient.New("").Get(t.Context(), feedclient.Request{URL: s.URL + "/feeds/orders", Limit: 10})
		if status, ok := errors.AsType[*feedclient.StatusError](err); !ok || status.Status != http.StatusUnauthorized {
			t.Error(err)
		}
	})
	t.Run("the metrics name the reader", func(t *testing.T) {
		_, body := s.do(t, "GET", "/metrics", "", "Authorization", "Bearer "+token)
		if !strings.Contains(body, `http_requests_total{reader="warehouse",route="/feeds/:feed",status="2xx"}`) || strings.Contains(body, token) {
			t.Error(body)
		}
	})
}

// What a client says of hosts and proxies changes no byte: links are built from PUBLIC_URL.
func TestForwardedHeadersChangeNothing(t *testing.T) {
	t.Parallel()
	token, hash := access.NewToken()
	for name, env := range map[string]map[string]string{
		"from anybody":         {"PUBLIC_URL": "https://cars.example"},
		"from a trusted proxy": {"PUBLIC_URL": "https://cars.example/", "TRUSTED_PROXIES": "127.0.0.0/8,::1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env["TOKENS"], env["HOSTS"] = "ada:operator:"+hash, "evil.example"
			s := openWith(t, parsed(t, env))
			s.buy(t, twoOhms)
			ask := func(path string, header http.Header, host string) (*http.Response, []byte) {
				req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header, req.Host = header, host
				req.Header.Set("Authorization", "Bearer "+token)
				resp, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				resp.Header.Del("Date")
				return resp, body
			}
			for _, path := range []string{
				"/feeds", "/feeds/orders.json", "/feeds/orders.atom", "/feeds/orders.html", "/feeds/orders?after=0&limit=1", "/feeds/orders?after=7-000000000000", "/feeds/none", "/orders",
			} {
				honest, want := ask(path, http.Header{}, "")
				resp, body := ask(path, http.Header{
					"X-Forwarded-For": {"198.51.100.1"}, "X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Proto": {"gopher"}, "X-Forwarded-Port": {"70"},
					"X-Forwarded-Prefix": {"/evil"}, "X-Original-Url": {"/evil"}, "X-Real-Ip": {"198.51.100.1"}, "Forwarded": {"for=198.51.100.1;host=evil.example;proto=gopher"},
				}, "evil.example")
				var head, honestHead bytes.Buffer
				_, _ = resp.Header.Write(&head), honest.Header.Write(&honestHead)
				if resp.StatusCode != honest.StatusCode || !bytes.Equal(body, want) || head.String() != honestHead.String() {
					t.Errorf("%s: %d %s\n%s\nwant %d %s\n%s", path, resp.StatusCode, head.String(), body, honest.StatusCode, honestHead.String(), want)
				}
				if strings.HasPrefix(path, "/feeds/orders.") && !bytes.Contains(body, []byte("https://cars.example/feeds/orders")) {
					t.Errorf("%s does not link to the public URL: %s", path, body)
				}
			}
		})
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	_, hash := access.NewToken()
	for name, value := range map[string]string{
		"TOKENS": "warehouse:reader:hunter2" + hash, "TRUSTED_PROXIES": "hunter2", "ACCESS_LOG": "sometimes",
	} {
		err := daemon.Parse(map[string]string{name: value}, new(Settings))
		if !errors.Is(err, daemon.ErrUsage) || !strings.HasPrefix(err.Error(), name) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
	if !parsed(t, nil).AccessLog || parsed(t, map[string]string{"ACCESS_LOG": "false"}).AccessLog {
		t.Error("the access log is not on unless it is switched off")
	}
	for _, env := range []map[string]string{{"TLS_CERT_FILE": "cert.pem"}, {"TLS_KEY_FILE": "key.pem"}, {"TLS_CERT_FILE": "none.pem", "TLS_KEY_FILE": "none.pem"}} {
		env["ADDR"] = "127.0.0.1:0"
		if err := Run(t.Context(), parsed(t, env), io.Discard); !errors.Is(err, daemon.ErrUsage) || !strings.Contains(err.Error(), "TLS_CERT_FILE and TLS_KEY_FILE") {
			t.Errorf("%v: %v", env, err)
		}
	}
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	token, hash := access.NewToken()
	for on, want := range map[string]int{"true": 2, "false": 0} {
		s := openWith(t, parsed(t, map[string]string{"ACCESS_LOG": on, "ACCESS": "closed", "TOKENS": "warehouse:reader:" + hash}))
		s.do(t, "GET", "/models", "")
		s.do(t, "GET", "/feeds?access_token="+token, "", "Authorization", "Bearer "+token)
		log := s.stop()
		if n := strings.Count(log, "msg=request"); n != want || strings.Contains(log, token) || strings.Contains(log, "reader=warehouse") != (want > 0) {
			t.Errorf("ACCESS_LOG=%s: %s", on, log)
		}
	}
}
