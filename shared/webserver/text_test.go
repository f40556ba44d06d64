package webserver

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
)

func TestMalformedText(t *testing.T) {
	t.Parallel()
	url, _ := newServer(t, func(r *gin.Engine) {
		ok := Handle(func(c *gin.Context) error { c.Status(http.StatusNoContent); return nil })
		r.GET("/parts/:part", ok)
		r.GET("/plain", func(c *gin.Context) { c.Status(http.StatusNoContent) })
		r.POST("/form", ok)
	})
	const form, json = "application/x-www-form-urlencoded", "application/json"
	for _, tc := range []struct {
		method, path, kind, body string
		status                   int
		names                    string
	}{
		{"GET", "/parts/b%C3%A4ttery?a=%25&b=%F0%9F%9A%97", "", "", 204, ""},
		{"GET", "/parts/%00", "", "", 404, ""},
		{"GET", "/parts/a%ff", "", "", 404, ""},
		{"GET", "/parts/%ed%a0%80", "", "", 404, ""},
		{"GET", "/nowhere/%00", "", "", 404, ""},
		{"GET", "/plain?part=%00", "", "", 400, "parameter part"},
		{"GET", "/plain?a=b&part=x%ffy", "", "", 400, "parameter part"},
		{"GET", "/plain?part=%ed%a0%80", "", "", 400, "parameter part"},
		{"GET", "/plain?%00=x", "", "", 400, "name of a parameter"},
		{"GET", "/plain?%C3=x", "", "", 400, "name of a parameter"},
		{"GET", "/plain?x=%zz", "", "", 204, ""},
		{"POST", "/form", form, "a=b&name=%C3%A4", 204, ""},
		{"POST", "/form", form, "a=b&name=%00", 400, "field name"},
		{"POST", "/form", form, "a=b&name=\xff", 400, "field name"},
		{"POST", "/form", form + "; charset=utf-8", "%ed%a0%80=x", 400, "name of a field"},
		{"POST", "/form", json, `{"name":"ä"}`, 204, ""},
		{"POST", "/form", json, "{\"name\":\"\xff\"}", 400, "body"},
		{"POST", "/form", "application/octet-stream", "\x00\xff", 204, ""},
	} {
		resp, text := ask(t, tc.method, url+tc.path, strings.NewReader(tc.body), "Content-Type", tc.kind)
		if resp.StatusCode != tc.status || !strings.Contains(text, tc.names) {
			t.Errorf("%s %s %q: %s %s, want %d naming %q", tc.method, tc.path, tc.body, resp.Status, text, tc.status, tc.names)
		}
		if tc.status >= 400 {
			wantProblem(t, resp, text, tc.status)
		}
	}
}
