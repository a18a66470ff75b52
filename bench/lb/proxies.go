package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
)

const naiveCommand = "naive-proxy"

// proxy is a running balancer.
type proxy struct {
	*proc
	addr string
}

// startProxy starts the balancer called name in front of b.
func startProxy(ctx context.Context, o options, name string, b *backends) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: fmt.Sprintf("127.0.0.1:%d", port)}
	switch name {
	case "direct":
		return &proxy{addr: b.addrs[0]}, nil
	case "haproxy", "haproxy-splice":
		p.proc, err = startHAProxy(ctx, o, name, p.addr, b.addrs)
	case "nginx":
		p.proc, err = startNginx(ctx, o, p.addr, b.addrs)
	case "naive":
		p.proc, err = start(ctx, os.Args[0], append([]string{naiveCommand, p.addr}, b.addrs...)...)
	case "hactl":
		return startHactl(ctx, o, name, b)
	case "hactl-hello":
		return startHactl(ctx, o, name, b, "--replay-plain") // the way of a TLS client: first bytes read and kept
	default:
		return nil, fmt.Errorf("no balancer %q", name)
	}
	if err != nil {
		return nil, err
	}
	if err := waitOpen(ctx, p.addr); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w\n%s", name, err, p.out.String())
	}
	return p, nil
}

// startHactl starts ours with its state in a folder of that name.
func startHactl(ctx context.Context, o options, name string, b *backends, more ...string) (*proxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: fmt.Sprintf("127.0.0.1:%d", port)}
	args := []string{"lb", "run", "--root", filepath.Join(o.dir, name), "--listen", p.addr, "--check", "tcp", "--log-level", "warn"}
	for _, a := range b.addrs {
		args = append(args, "--backend", a)
	}
	if p.proc, err = start(ctx, o.hactl, append(args, more...)...); err != nil {
		return nil, err
	}
	if err := waitOpen(ctx, p.addr); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w\n%s", name, err, p.out.String())
	}
	return p, nil
}

func startHAProxy(ctx context.Context, o options, name, addr string, to []string) (*proc, error) {
	splice := ""
	if name == "haproxy-splice" {
		splice = "option splice-request\n option splice-response"
	}
	var servers strings.Builder
	for i, a := range to {
		fmt.Fprintf(&servers, " server s%d %s check inter 500ms\n", i, a)
	}
	conf := fmt.Sprintf(`global
 nbthread 2
 maxconn %d
defaults
 mode tcp
 timeout connect 5s
 timeout client 1h
 timeout server 1h
 %s
listen l
 bind %s backlog 4096
 balance leastconn
%s`, haproxyConns(o), splice, addr, servers.String())
	if splice != "" {
		conf = strings.Replace(conf, fmt.Sprintf("maxconn %d", haproxyConns(o)), "maxconn 4000\n maxpipes 500", 1)
	}
	file := filepath.Join(o.dir, name+".cfg")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	return start(ctx, "haproxy", "-db", "-q", "-f", file)
}

// haproxyConns is what HAProxy can carry with two descriptors a connection.
func haproxyConns(o options) int { return min(o.idle, (openFiles(2*o.idle+spareFiles)-200)/2) }

func startNginx(ctx context.Context, o options, addr string, to []string) (*proc, error) {
	var servers strings.Builder
	for _, a := range to {
		fmt.Fprintf(&servers, "server %s;", a)
	}
	conf := fmt.Sprintf(`load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 2; pid %[1]s/stream.pid; error_log %[1]s/stream.log crit; worker_rlimit_nofile %[4]d;
events { worker_connections %[4]d; }
stream { upstream u { least_conn; %[2]s } server { listen %[3]s backlog=4096; proxy_pass u; proxy_timeout 1h; tcp_nodelay on; } }`, o.dir, servers.String(), addr, openFiles(2*o.idle+spareFiles))
	file := filepath.Join(o.dir, "stream.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	return start(ctx, "nginx", "-c", file, "-e", filepath.Join(o.dir, "stream.log"))
}

// naive is the balancer that one writes first: two goroutines and io.Copy.
func naive(args []string) error {
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", args[0])
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			b, err := net.Dial("tcp", args[1+i%(len(args)-1)])
			if err != nil {
				return
			}
			defer b.Close()
			go func() {
				_, _ = io.Copy(b, c)
				_ = b.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(c, b)
		}()
	}
}
