package webserver

import (
	"net/http"
	"testing"
	"testing/fstest"

	"github.com/chromedp/chromedp"
	"github.com/gin-gonic/gin"

	"github.com/edison-cars/data-feeds/shared/dev/chromium"
	"github.com/edison-cars/data-feeds/shared/web"
)

// A table that is made to fit into a narrow window fits, whatever words it has.
func TestLongWordsInANarrowWindow(t *testing.T) {
	t.Parallel()
	page := web.Template(fstest.MapFS{"page.html": {Data: []byte(`{{define "main"}}<div class="table"><table class="stacked">
<thead><tr><th scope="col">Account</th><th scope="col">E-mail</th></tr></thead>
<tbody><tr><th scope="row" data-label="Account">1</th><td data-label="E-mail"><span>{{.Data}} <span class="badge">not confirmed</span></span></td></tr>
<tr><th scope="row" data-label="Account">2</th><td data-label="E-mail">{{.Data}}</td></tr></tbody></table></div>{{end}}`)}}, "page.html")
	url, _ := newServer(t, func(r *gin.Engine) {
		r.GET("/", func(c *gin.Context) {
			Render(c, http.StatusOK, page, web.Page{Service: "Customers", Title: "Accounts", Data: "ingeborg.van-der-meersch-hohenstein@verkehrsbetriebe.example.com"})
		})
	})
	b := chromium.Open(t)
	for _, width := range []int64{360, 390, 600} {
		b.Look(t, width, "light")
		b.Do(t, chromedp.Navigate(url+"/"))
		if over := chromium.Evaluate[int](t, b, "(t => t.scrollWidth - t.clientWidth)(document.querySelector('.table'))"); over > 0 {
			t.Errorf("at %d px, the table is %d px too wide", width, over)
		}
	}
}
