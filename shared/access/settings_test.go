package access

import (
	"bytes"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	token, hash := NewToken()
	type settings struct{ Settings } // as a program embeds them
	var s settings
	if err := daemon.Parse(map[string]string{"ACCESS": "open", "HOSTS": "feeds.example", "TOKENS": "ada:operator:" + hash, "TOKENS_FILE": "tokens"}, &s); err != nil {
		t.Fatal(err)
	}
	if s.Access != Open || len(s.Hosts) != 1 || s.Tokens.find(token) == nil || s.TokensFile != "tokens" {
		t.Errorf("%+v", s)
	}
	s = settings{}
	if err := daemon.Parse(map[string]string{"ACCESS": "", "HOSTS": "", "TOKENS": "", "TOKENS_FILE": ""}, &s); err != nil {
		t.Fatal(err)
	}
	if s.Access != Closed || s.Hosts != nil || s.Tokens.byHash != nil {
		t.Errorf("%+v", s)
	}
	for name, value := range map[string]string{"ACCESS": "yes", "HOSTS": "*", "TOKENS": "ada:" + hash} {
		err := daemon.Parse(map[string]string{name: value}, &s)
		if err == nil || !strings.HasPrefix(err.Error(), name+": ") || strings.Contains(err.Error(), hash) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var help bytes.Buffer
	daemon.Help(&help, s)
	for _, name := range []string{"ACCESS ", "HOSTS ", "TOKENS ", "TOKENS_FILE "} {
		if !strings.Contains(help.String(), "  "+name) {
			t.Errorf("%s is not in the help: %s", name, help.String())
		}
	}
}
