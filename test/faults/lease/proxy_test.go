//go:build faults || lab

package lease

import (
	"net"
	"sync"
	"testing"
	"time"
)

// linkMode is what a proxy does with what passes.
type linkMode int

const (
	open   linkMode = iota // pass it on
	hole                   // swallow it: a cut cable
	slow                   // answers come 700 ms late
	refuse                 // reset every connection
)

// proxy stands between one podmaster and one etcd member.
type proxy struct {
	ln     net.Listener
	target string
	mu     sync.Mutex
	mode   linkMode
	change chan struct{}
	conns  map[net.Conn]struct{}
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, target: target, change: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.set(refuse)
		wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) set(m linkMode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	close(p.change)
	p.change = make(chan struct{})
	if m == refuse {
		for c := range p.conns {
			_ = c.Close()
		}
	}
}

func (p *proxy) now() (linkMode, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.change
}

func (p *proxy) serve(in net.Conn) {
	defer in.Close()
	if m, _ := p.now(); m == refuse {
		return
	}
	out, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer out.Close()
	p.mu.Lock()
	p.conns[in], p.conns[out] = struct{}{}, struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, in)
		delete(p.conns, out)
	}()
	var wg sync.WaitGroup
	wg.Go(func() { p.pass(out, in, false) })
	wg.Go(func() { p.pass(in, out, true) })
	wg.Wait()
}

func (p *proxy) pass(dst, src net.Conn, answers bool) {
	defer func() { _ = dst.Close(); _ = src.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		for {
			m, changed := p.now()
			if m == hole { // like a cut cable: kept back until it is mended
				<-changed
				continue
			}
			if m == slow && answers {
				<-time.After(700 * time.Millisecond)
			}
			break
		}
		if m, _ := p.now(); m == refuse {
			return
		}
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
