// Package freeport finds addresses for servers that cannot say which port they were given.
package freeport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
)

// Addr returns an address of this machine on which nothing listens. Its port lies below those that Linux gives to
// outgoing connections: one of these could take it before the server does.
func Addr(ctx context.Context) (addr string, err error) {
	for range 100 {
		var ln net.Listener
		addr = fmt.Sprint("127.0.0.1:", 20000+rand.IntN(12000))
		if ln, err = new(net.ListenConfig).Listen(ctx, "tcp", addr); err == nil {
			return addr, ln.Close()
		}
	}
	return "", err
}
