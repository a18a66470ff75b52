package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// measureIdle opens connections, sends one request over each and looks at what
// the balancer holds for them.
func measureIdle(ctx context.Context, o options, b *backends) error {
	fmt.Printf("\n## idle: %d connections, each after one request\n\n", o.idle)
	fmt.Printf("| balancer | user memory a connection | in all | fds a connection | kernel slab a connection (client and backend included) | CPU s in 5 s |\n|---|---|---|---|---|---|\n")
	for _, name := range append([]string{"haproxy"}, o.proxies...) {
		if name == "haproxy-splice" {
			continue
		}
		if err := idleOf(ctx, o, b, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func idleOf(ctx context.Context, o options, b *backends, name string) error {
	p, err := startProxy(ctx, o, name, b)
	if err != nil {
		return err
	}
	defer p.stop()
	n := o.idle
	if name == "naive" {
		n = min(n, 2500) // six descriptors each
	}
	time.Sleep(500 * time.Millisecond)
	rss, fds, kernel := p.rss(), p.fds(), slab()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range n {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			return err
		}
		conns = append(conns, c)
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(c, "GET /s HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
		if err != nil {
			return fmt.Errorf("connection %d: %w", len(conns), err)
		}
		_ = resp.Body.Close()
	}
	time.Sleep(2 * time.Second)
	cpu := p.cpu()
	time.Sleep(5 * time.Second)
	f := float64(n)
	fmt.Printf("| %s | %.2f KB | %.1f MB | %.2f | %.1f KB | %.2f |\n", name, float64(p.rss()-rss)/f/1024, float64(p.rss())/(1<<20),
		float64(p.fds()-fds)/f, float64(slab()-kernel)/f/1024, p.cpu()-cpu)
	return nil
}

// measureSlow asks for much and reads nothing: how much does a balancer take from
// the backend, and what does it cost its memory?
func measureSlow(ctx context.Context, o options, b *backends) error {
	const readers = 20
	fmt.Printf("\n## slow: %d clients that ask for %d MiB and never read, for 3 s\n\n", readers, bulkBytes>>20)
	fmt.Printf("| balancer | user memory a client |\n|---|---|\n")
	for _, name := range append([]string{"haproxy"}, o.proxies...) {
		if err := func() error {
			p, err := startProxy(ctx, o, name, b)
			if err != nil {
				return err
			}
			defer p.stop()
			time.Sleep(300 * time.Millisecond)
			rss := p.rss()
			for range readers {
				c, err := net.Dial("tcp", p.addr)
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err := io.WriteString(c, "GET /bulk HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					return err
				}
			}
			time.Sleep(3 * time.Second)
			fmt.Printf("| %s | %.1f KB |\n", name, float64(p.rss()-rss)/readers/1024)
			return nil
		}(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
