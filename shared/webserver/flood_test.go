package webserver

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

// Clients that together hold all connections with requests whose bodies do not come leave room for another one,
// whatever they ask for.
func TestBodiesThatDoNotCome(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"a form":            "POST /read HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\na=",
		"one nobody reads":  "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
		"in chunks":         "GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"of another origin": "POST /read HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 100\r\n\r\n",
		"of a bad URL":      "POST /%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
	} {
		for of, clients := range map[string]int{" of two clients": 2, " of one client each": 16} {
			t.Run(name+of, func(t *testing.T) {
				t.Parallel()
				bodiesThatDoNotCome(t, request, clients)
			})
		}
	}
}

func bodiesThatDoNotCome(t *testing.T, request string, clients int) {
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := newOpenConns(8)
	logger := slog.New(slog.DiscardHandler)
	engine := New(logger)
	GET(engine, "/livez", func(c *gin.Context) { c.String(http.StatusOK, "ok\n") })
	engine.POST("/read", Handle(func(c *gin.Context) error { return c.Request.ParseForm() }))
	go func() { _ = ServeListener(t.Context(), impatient{ln.(impatient).Listener, open}, engine, logger) }()
	for i := range 16 {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 3, byte(1+i%clients))}}
		c, err := dialer.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Skip("this system has no second loopback address: ", err)
		}
		defer c.Close()
		_, _ = fmt.Fprint(c, request) // fails if it is not admitted
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for deadline := time.Now().Add(bodyTimeout / 2); ; time.Sleep(10 * time.Millisecond) {
		resp, err := client.Get("http://" + ln.Addr().String() + "/livez")
		if err == nil {
			_ = resp.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// One client of a proxy does not take the proxy's connections by bodies that do not come.
func TestBodiesBehindProxy(t *testing.T) {
	t.Parallel()
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := newOpenConns(8) // 6 of an address, 3 of them for bodies of one client
	logger := slog.New(slog.DiscardHandler)
	engine := New(logger)
	if err := (Proxies{"127.0.0.1"}).Trust(engine); err != nil {
		t.Fatal(err)
	}
	engine.POST("/read", Handle(func(c *gin.Context) error { return c.Request.ParseForm() }))
	go func() { _ = ServeListener(t.Context(), impatient{ln.(impatient).Listener, open}, engine, logger) }()
	closed := make(chan struct{}, 20)
	for range 20 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = fmt.Fprint(c, "POST /read HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: 100\r\n\r\na=") // fails if it is not admitted
		go func() {
			_, _ = io.Copy(io.Discard, c)
			closed <- struct{}{}
		}()
	}
	for n := range 17 {
		select {
		case <-closed:
		case <-time.After(bodyTimeout / 2):
			t.Fatalf("the client has %d connections of the proxy, want 3", 20-n)
		}
	}
	if resp, _ := ask(t, "POST", "http://"+ln.Addr().String()+"/read", strings.NewReader("a=b"), "X-Forwarded-For", "192.0.2.2"); resp.StatusCode != http.StatusOK {
		t.Errorf("another client of the proxy: %d", resp.StatusCode)
	}
}
