package directory

import (
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/feedclient"
)

func TestServices(t *testing.T) {
	t.Parallel()
	var s Services
	if err := s.UnmarshalText([]byte("sales=http://sales:8080/, fleet=https://fleet")); err != nil || len(s) != 2 ||
		s[0] != (Service{Name: "sales", URL: "http://sales:8080"}) || s[1] != (Service{Name: "fleet", URL: "https://fleet"}) {
		t.Errorf("%+v, %v", s, err)
	}
	if text := s.String(); text != "sales=http://sales:8080,fleet=https://fleet" {
		t.Error(text)
	}
	if err := s.LinkTo("localhost"); err != nil || s[0].Link != "http://localhost:8080" || s[1].Link != "https://localhost" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "sales", "=http://sales:8080", "sales=sales:8080", "sales=http://sales,", "sales=ftp://sales"} {
		if err := new(Services).UnmarshalText([]byte(bad)); err == nil || !strings.Contains(err.Error(), "NAME=URL") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestServicesGetNoTokenInTheClear(t *testing.T) {
	t.Parallel()
	var services Services
	if err := services.UnmarshalText([]byte("here=http://localhost:8080,sales=http://sales:8080,far=https://far.example")); err != nil {
		t.Fatal(err)
	}
	err := services.Check("datafeed_SECRET", feedclient.PlainHosts{"customers"})
	if err == nil || err.Error() != "sales: FEED_TOKEN would be sent to sales without TLS: take an https URL or, if all of the network on the way is private, name the host in PLAIN_HOSTS" {
		t.Errorf("%v", err)
	}
	for _, err := range []error{services.Check("datafeed_SECRET", feedclient.PlainHosts{"sales"}), services.Check("", nil)} {
		if err != nil {
			t.Error(err)
		}
	}
}
