package feedclient

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"time"
)

const (
	dialTimeout = 5 * time.Second
	dialStagger = 300 * time.Millisecond
)

// NewTransport returns an [http.Transport] for requests to a service. It connects within 5 s, also if one of the
// addresses that the host's name has is dead. An HTTP/2 connection without data for 10 s is checked by a PING, and
// closed if that has no answer within 5 s.
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = dial
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
	return t
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	addresses := make([]string, len(ips))
	for i, ip := range ips {
		addresses[i] = net.JoinHostPort(ip.Unmap().String(), port)
	}
	return dialFirst(ctx, network, addresses)
}

// dialFirst connects to the first of the addresses that answers. Unlike a [net.Dialer], which does so for one IPv4 and
// one IPv6 address, it does not wait for one address to fail before it tries the next (RFC 8305 section 5).
func dialFirst(ctx context.Context, network string, addresses []string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, len(addresses))
	dialer := net.Dialer{KeepAlive: 15 * time.Second}
	next := time.NewTimer(0)
	defer next.Stop()
	var failure error
	for begun, failed := 0, 0; failed < len(addresses); {
		select {
		case <-next.C:
			if begun == len(addresses) {
				continue
			}
			address := addresses[begun]
			begun++
			next.Reset(dialStagger)
			go func() {
				conn, err := dialer.DialContext(ctx, network, address)
				results <- result{conn, err}
			}()
		case r := <-results:
			if r.err != nil {
				failed++
				failure = cmp.Or(failure, r.err)
				next.Reset(0)
				continue
			}
			go func() {
				for range begun - failed - 1 {
					if late := <-results; late.err == nil {
						_ = late.conn.Close()
					}
				}
			}()
			return r.conn, nil
		}
	}
	return nil, failure
}
