package feedclient

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestPlainHosts(t *testing.T) {
	t.Parallel()
	const none = ""
	for _, x := range []struct {
		hosts, url string
		refused    string // what it says; "" is nothing
	}{
		{none, "https://cars.example/feeds/things", ""},
		{none, "https://reader:secret@cars.example/feeds/things", ""},
		{none, "http://localhost:8080/feeds/things", ""},
		{none, "http://LOCALHOST./feeds/things", ""},
		{none, "http://cars.localhost/feeds/things", ""},
		{none, "http://127.0.0.1/feeds/things", ""},
		{none, "http://127.9.8.7:1/feeds/things", ""},
		{none, "http://[::1]:8080/feeds/things", ""},
		{none, "http://[::ffff:127.0.0.1]/feeds/things", ""},
		{none, "http://cars.example/feeds/things", "FEED_TOKEN would be sent to cars.example without TLS"},
		{none, "http://reader:secret@cars.example/feeds/things", "the user in the URL would be sent to cars.example without TLS"},
		{none, "http://localhost.cars.example/feeds/things", "to localhost.cars.example without"},
		{none, "http://notlocalhost/feeds/things", "to notlocalhost without"},
		{none, "http://127.0.0.1.cars.example/feeds/things", "to 127.0.0.1.cars.example without"},
		{none, "http://128.0.0.1/feeds/things", "to 128.0.0.1 without"},
		{none, "http://0.0.0.0/feeds/things", "to 0.0.0.0 without"},
		{none, "http://[::2]/feeds/things", "to ::2 without"},
		{none, "http://[::ffff:10.0.0.1]/feeds/things", "to ::ffff:10.0.0.1 without"},
		{"sales", "http://sales:8080/feeds/things", ""},
		{"customers, sales", "http://Sales/feeds/things", ""},
		{"\ncustomers\n\tSALES.\n", "http://reader:secret@sales/feeds/things", ""},
		{"10.0.0.1 fd00::1", "http://[fd00::1]:8080/feeds/things", ""},
		{"customers,sales", "http://sales.example/feeds/things", "name the host in PLAIN_HOSTS"},
		{"example", "http://cars.example/feeds/things", "to cars.example without"},
	} {
		var hosts PlainHosts
		if err := hosts.UnmarshalText([]byte(x.hosts)); err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(x.url)
		if err != nil {
			t.Fatal(err)
		}
		err = hosts.Check(u, true, "PLAIN_HOSTS")
		if (err == nil) != (x.refused == "") || err != nil && (!strings.Contains(err.Error(), x.refused) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s, hosts %q: %v", x.url, x.hosts, err)
		}
		if err := hosts.Check(u, false, ""); (err != nil) != (x.refused != "" && u.User != nil) {
			t.Errorf("without a token, %s, hosts %q: %v", x.url, x.hosts, err)
		}
	}
	for _, bad := range []string{"sales:8080", "http://sales", "*.example", "sales/feeds", "reader@sales", "[::1]", "sales,customers:1"} {
		if err := new(PlainHosts).UnmarshalText([]byte(bad)); err == nil || !strings.Contains(err.Error(), "without ports") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestShownURL(t *testing.T) {
	t.Parallel()
	for text, shown := range map[string]string{
		"https://cars.example/feeds/orders": "https://cars.example/feeds/orders", "https://ada:secret@cars.example/x?after=0": "https://ada:xxxxx@cars.example/x?after=0",
		"https://secret@cars.example/": "https://xxxxx@cars.example/", "https://:secret@cars.example/": "https://:xxxxx@cars.example/",
	} {
		if got := ShownURL(mustParse(t, text)); got != shown {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
}

// A redirect leads neither a token nor a user in the URL to another origin.
func TestRedirectsKeepSecrets(t *testing.T) {
	t.Parallel()
	const token = "datafeed_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another origin was asked") }))
	defer thief.Close()
	port := strings.TrimPrefix(thief.URL, "http://127.0.0.1:")
	for _, user := range []string{"", "reader:" + token + "@"} {
		for _, secure := range []bool{false, true} {
			for _, to := range []string{
				thief.URL, "//127.0.0.1:" + port, "http://localhost:" + port, "http://reader:secret@127.0.0.1:" + port, "http://127.0.0.1:" + port + "/feeds/things",
			} {
				source := httptest.NewUnstartedServer(http.RedirectHandler(to, http.StatusTemporaryRedirect))
				begin := source.Start
				if secure {
					begin = source.StartTLS
				}
				begin()
				client := New(token)
				client.http.Transport.(*transport).http.TLSClientConfig = source.Client().Transport.(*http.Transport).TLSClientConfig
				_, err := client.Get(t.Context(), Request{URL: strings.Replace(source.URL, "//", "//"+user, 1) + "/feeds/things", Limit: 10})
				if err == nil || !strings.Contains(err.Error(), "it redirects to another origin") || strings.Contains(err.Error(), token) {
					t.Errorf("from %s to %s: %v", source.URL, to, err)
				}
				client.Close()
				source.Close()
			}
		}
	}
	for from, to := range map[string]string{
		"http://cars.example/": "http://CARS.example:80/x", "https://cars.example:443/": "https://cars.example./x", "http://[::1]:80": "http://[::1]/",
	} {
		if a, b := mustParse(t, from), mustParse(t, to); origin(a) != origin(b) {
			t.Errorf("%s and %s are two origins", from, to)
		}
	}
	for from, to := range map[string]string{
		"http://cars.example": "https://cars.example", "https://cars.example": "https://cars.example:80", "http://a.example": "http://b.example", "http://[::1]": "http://[::11]",
	} {
		if a, b := mustParse(t, from), mustParse(t, to); origin(a) == origin(b) {
			t.Errorf("%s and %s are one origin", from, to)
		}
	}
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
