package daemon

import (
	"strings"
	"testing"
)

func TestWarnMisspelled(t *testing.T) {
	t.Parallel()
	known := []string{"POLL_ORDERS", "POLL_BUILDS", "POLL_WAIT", "DATABASE_URL", "HOSTS", "TOKENS", "ACCESS", "LOG_LEVEL", "PAGE_SIZE", "TLS_CERT_FILE"}
	env := map[string]string{
		"POLL_ORDER": "hunter2", "POLL_INVOICES": "hunter2", "DATABASEURL": "hunter2", "poll_wait": "25s", // misspelled
		"POLL_WAIT": "25s", "HOST": "x", "TOKEN": "x", "PATH": "/bin", "LOGNAME": "ada", "DATABASE_HOST": "x", "PAGER": "less", "HOME": "/", "LANG": "C", "SSL_CERT_FILE": "x", // not
	}
	var b strings.Builder
	WarnMisspelled(t.Context(), env, &b, known, "POLL_")
	var got []string
	for line := range strings.Lines(b.String()) {
		_, said, _ := strings.Cut(strings.TrimSpace(line), " ")
		got = append(got, said)
	}
	want := `level=WARN msg="unknown setting" name=DATABASEURL did_you_mean=DATABASE_URL
level=WARN msg="unknown setting" name=POLL_INVOICES did_you_mean=POLL_ORDERS
level=WARN msg="unknown setting" name=POLL_ORDER did_you_mean=POLL_ORDERS
level=WARN msg="unknown setting" name=poll_wait did_you_mean=POLL_WAIT`
	if strings.Join(got, "\n") != want {
		t.Errorf("%s\nwant\n%s", &b, want)
	}
	b.Reset()
	env["LOG_LEVEL"] = "error"
	if WarnMisspelled(t.Context(), env, &b, known); b.Len() > 0 {
		t.Error(&b)
	}
}
