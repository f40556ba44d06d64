// Package directory lists the services of a company and their addresses.
package directory

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/edison-cars/data-feeds/shared/feedclient"
)

// A Service is a service of the company.
type Service struct {
	Name string // "warehouse"
	URL  string // http://localhost:8090
	Link string // the URL for browsers; empty: URL
	Text string // its purpose in one line; may be empty
}

// Services are given as NAME=URL,NAME=URL.
type Services []Service

// UnmarshalText parses a list of services.
func (s *Services) UnmarshalText(text []byte) error {
	for part := range strings.SplitSeq(string(text), ",") {
		name, at, _ := strings.Cut(strings.TrimSpace(part), "=")
		u, err := url.Parse(at)
		if name == "" || err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("takes NAME=URL,NAME=URL, such as sales=http://localhost:8080, not %q", part)
		}
		*s = append(*s, Service{Name: name, URL: strings.TrimSuffix(at, "/")})
	}
	return nil
}

// String returns the list as UnmarshalText takes it.
func (s Services) String() string {
	var list []string
	for _, service := range s {
		list = append(list, service.Name+"="+service.URL)
	}
	return strings.Join(list, ",")
}

// Check returns an error if the token, or a user in a URL, would be sent without TLS to a service that is neither on
// this machine nor a plain host.
func (s Services) Check(token string, plain feedclient.PlainHosts) error {
	for _, service := range s {
		u, err := url.Parse(service.URL)
		if err == nil {
			err = plain.Check(u, token != "", "PLAIN_HOSTS")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", service.Name, err)
		}
	}
	return nil
}

// LinkTo sets the host of all links, for browsers that cannot resolve the services' names. Ports stay.
func (s Services) LinkTo(host string) error {
	if u, err := url.Parse("http://" + host); err != nil || u.Hostname() != strings.Trim(host, "[]") {
		return errors.New("takes the name or address of a host without a port, such as localhost or [2001:db8::7]")
	}
	for i := range s {
		u, err := url.Parse(s[i].URL)
		if err != nil {
			return err
		}
		port := u.Port()
		u.User = nil
		if u.Host = host; port != "" {
			u.Host += ":" + port
		}
		s[i].Link = u.String()
	}
	return nil
}
