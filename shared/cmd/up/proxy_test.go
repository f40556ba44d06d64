package main

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// A proxy carries connections to a target, and while it rages, breaks some of them off in the middle.
type proxy struct {
	net.Listener
	target string

	mu     sync.Mutex
	raging bool
	open   map[net.Conn]bool
}

func newProxy(t *testing.T, addr, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: ln, target: target, open: map[net.Conn]bool{}}
	t.Cleanup(func() {
		ln.Close()
		p.cut()
	})
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go p.carry(conn)
		}
	}()
	return p
}

func (p *proxy) carry(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		reset(client)
		return
	}
	p.mu.Lock()
	p.open[client], p.open[server] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, client)
		delete(p.open, server)
		reset(client)
		reset(server)
	}()
	go func() {
		_, _ = io.Copy(server, client)
		reset(server)
	}()
	if p.breaks() {
		_, _ = io.CopyN(client, server, rand.Int64N(30_000)) // in mid-page, as likely as not
		return
	}
	_, _ = io.Copy(client, server)
}

// breaks tells whether a connection is one that breaks.
func (p *proxy) breaks() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.raging && rand.N(2) == 0
}

func (p *proxy) rage() { p.set(true) }

func (p *proxy) calm() { p.set(false); p.cut() }

func (p *proxy) set(raging bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raging = raging
}

// cut breaks all connections off.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.open {
		reset(conn)
	}
}

func reset(conn net.Conn) {
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}
