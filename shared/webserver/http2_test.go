package webserver

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Client is a connection on which a test sends the frames it wants.
type http2Client struct {
	*http2.Framer
	conn   net.Conn
	next   uint32
	header *hpack.Encoder
	block  bytes.Buffer
	pong   chan bool // closed at the end of the connection
}

func dialHTTP2(t *testing.T, addr string, from net.IP, settings ...http2.Setting) *http2Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	conn, err := tls.DialWithDialer(dialer, "tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // the certificate is the test\'s own
	if err != nil {
		return nil // not admitted
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, _ = conn.Write([]byte(http2.ClientPreface))
	c := &http2Client{Framer: http2.NewFramer(conn, conn), conn: conn, next: 1, pong: make(chan bool, 1)}
	c.header = hpack.NewEncoder(&c.block)
	_ = c.WriteSettings(settings...)
	_ = c.WriteSettingsAck()
	go func() {
		defer close(c.pong)
		for {
			frame, err := http2.NewFramer(nil, conn).ReadFrame()
			if err != nil {
				return
			}
			if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() {
				c.pong <- true
			}
		}
	}()
	return c
}

// taken waits until the server has taken all frames, or has ended the connection.
func (c *http2Client) taken(t *testing.T) {
	t.Helper()
	_ = c.WritePing(false, [8]byte{})
	select {
	case <-c.pong:
	case <-time.After(20 * time.Second):
		t.Error("the server does not answer a ping")
	}
}

// request begins a request, with the body and its end if there is one.
func (c *http2Client) request(method, path, body string, ends bool) {
	c.block.Reset()
	for _, h := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path}} {
		_ = c.header.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: body == "" && ends})
	if body != "" {
		_ = c.WriteData(c.next, ends, []byte(body))
	}
	c.next += 2
}

func listenSecurely(t *testing.T, ln net.Listener) net.Listener {
	t.Helper()
	certFile, keyFile, _ := certificate(t, t.TempDir(), "cars")
	return listenTLS(t, ln, certFile, keyFile)
}

func serveHTTP2(t *testing.T, most int) (addr string) {
	t.Helper()
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	secure := listenSecurely(t, impatient{ln.(impatient).Listener, newOpenConns(most)})
	engine := New(logger)
	GET(engine, "/livez", func(c *gin.Context) { c.String(http.StatusOK, "ok\n") })
	GET(engine, "/page", func(c *gin.Context) { c.String(http.StatusOK, strings.Repeat("page", 1000)) })
	engine.POST("/read", Handle(func(c *gin.Context) error { return c.Request.ParseForm() }))
	go func() { _ = ServeListener(t.Context(), secure, engine, logger) }()
	return ln.Addr().String()
}

// Clients that together hold all connections by streams over HTTP/2 that wait for them leave room for another one.
func TestStreamsThatWaitForTheirClients(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]func(c *http2Client){
		"for a body": func(c *http2Client) { c.request("POST", "/read", "a", false) },
		"for a body, after another's end": func(c *http2Client) {
			c.request("POST", "/read", "a", false)
			c.taken(t)
			c.request("POST", "/read", "a", true)
		},
		"to take an answer, by the window": func(c *http2Client) { c.request("GET", "/page", "", true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := serveHTTP2(t, 8)
			for i := range 16 {
				var settings []http2.Setting
				if strings.Contains(name, "window") {
					settings = append(settings, http2.Setting{ID: http2.SettingInitialWindowSize})
				}
				if c := dialHTTP2(t, addr, net.IPv4(127, 0, 4, byte(1+i%2)), settings...); c != nil {
					hold(c)
				}
			}
			client := &http.Client{
				Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: time.Second, //nolint:gosec // the certificate is the test\'s own
			}
			for deadline := time.Now().Add(bodyTimeout / 2); ; time.Sleep(50 * time.Millisecond) {
				resp, err := client.Get("https://" + addr + "/livez")
				if err == nil {
					_ = resp.Body.Close()
					return
				}
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
		})
	}
}

// Two clients with a connection each leave requests over HTTP/2 to others.
func TestRequestsOfTwoClientsLeaveRoom(t *testing.T) {
	t.Parallel()
	addr := serveHTTP2(t, 8)
	for i := range 2 {
		c := dialHTTP2(t, addr, net.IPv4(127, 0, 5, byte(1+i)))
		for range 6 {
			c.request("POST", "/read", "a", false)
		}
	}
	client := &http.Client{
		Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: time.Second, //nolint:gosec // the certificate is the test\'s own
	}
	status, err := 0, error(nil)
	for deadline := time.Now().Add(bodyTimeout / 3); time.Now().Before(deadline) && status != http.StatusOK; time.Sleep(50 * time.Millisecond) {
		var resp *http.Response
		if resp, err = client.Get("https://" + addr + "/livez"); err == nil {
			status = resp.StatusCode
			_ = resp.Body.Close()
		}
	}
	if status != http.StatusOK {
		t.Errorf("health answers %d (%v) though 3 of 8 connections are open", status, err)
	}
}

// Answers that a client does not take are bounded as its requests are.
func TestAnswersThatNobodyTakes(t *testing.T) { // not parallel: it counts goroutines
	addr := serveHTTP2(t, 8)
	before := runtime.NumGoroutine()
	var clients []*http2Client
	for range 4 {
		c := dialHTTP2(t, addr, net.IPv4(127, 0, 6, 1), http2.Setting{ID: http2.SettingInitialWindowSize})
		for range 250 {
			c.request("GET", "/nothing", "", true)
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		c.taken(t)
	}
	time.Sleep(time.Second) // those that end soon do not count
	if n := runtime.NumGoroutine() - before; n > 200 {
		t.Errorf("%d goroutines more, for a client that may have 6 requests", n)
	}
}
