package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// openFiles is the limit of open files of every process here, raised to want if
// that is allowed.
func openFiles(want int) int {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 1024
	}
	more := syscall.Rlimit{Cur: uint64(want), Max: max(lim.Max, uint64(want))}
	if lim.Cur < more.Cur && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
		return want
	}
	lim.Cur = lim.Max // what needs no permission
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim)
	return int(min(lim.Max, 1<<24))
}

// spareFiles are those that no connection uses: pipes, reserves, logs, libraries.
const spareFiles = 600

// measureIdle opens connections, sends one request over each and looks at what
// the balancer holds for them.
func measureIdle(ctx context.Context, o options, b *backends) error {
	limit := openFiles(2*o.idle + spareFiles)
	most := min(o.idle, (limit-spareFiles)/2)
	if most < o.idle {
		fmt.Printf("\n%d idle connections are wanted, %d are possible: the limit of open files is %d and this process may not raise it\n", o.idle, most, limit)
	}
	for _, n := range []int{min(4000, most), most} {
		fmt.Printf("\n## idle: %d connections, each after one request\n\n", n)
		fmt.Printf("| balancer | user memory a connection | in all | fds a connection | kernel slab a connection (client and backend included) | CPU s in 3 s |\n|---|---|---|---|---|---|\n")
		for _, name := range append([]string{"haproxy"}, o.proxies...) {
			if name == "haproxy-splice" || name == "hactl-hello" || n != 4000 && name == "naive" {
				continue
			}
			if err := idleOf(ctx, o, b, name, n); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func idleOf(ctx context.Context, o options, b *backends, name string, n int) error {
	p, err := startProxy(ctx, o, name, b)
	if err != nil {
		return err
	}
	defer p.stop()
	if name == "naive" {
		n = min(n, 2500) // six descriptors each
	}
	time.Sleep(500 * time.Millisecond)
	rss, fds, kernel := p.rss(), p.fds(), slab()
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	}()
	for i := range n {
		c, err := askOnce(ctx, p.addr, i)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
		conns = append(conns, c)
	}
	time.Sleep(2 * time.Second)
	cpu := p.cpu()
	time.Sleep(3 * time.Second)
	f := float64(n)
	user, files := float64(p.rss()-rss)/f/1024, float64(p.fds()-fds)/f
	fmt.Printf("| %s | %.2f KB | %.1f MB | %.2f | %.1f KB | %.2f |\n", name, user, float64(p.rss())/(1<<20), files, float64(slab()-kernel)/f/1024, p.cpu()-cpu)
	if name == "hactl" {
		o.goals.atMost(fmt.Sprintf("user memory of an idle connection, KB (%d)", n), user, 1)
		o.goals.atMost(fmt.Sprintf("descriptors of an idle connection (%d)", n), files, 2)
	}
	return nil
}

// askOnce opens the i-th connection, from one of eight addresses because ports are
// few, and has one request answered.
func askOnce(ctx context.Context, addr string, i int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(10+i%8))}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = io.WriteString(c, "GET /s HTTP/1.1\r\nHost: x\r\n\r\n")
	if err == nil {
		var resp *http.Response
		if resp, err = http.ReadResponse(bufio.NewReaderSize(c, 512), nil); err == nil {
			_ = resp.Body.Close()
		}
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// measureSlow asks for much and reads nothing: how much memory does that cost?
func measureSlow(ctx context.Context, o options, b *backends) error {
	const readers = 20
	fmt.Printf("\n## slow: %d clients that ask for %d MiB and never read, for 2 s\n\n", readers, bulkBytes>>20)
	fmt.Printf("| balancer | user memory a client | with the kernel's buffers, client and backend included |\n|---|---|---|\n")
	for _, name := range append([]string{"haproxy"}, o.proxies...) {
		if err := slowOf(ctx, o, b, name, readers); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func slowOf(ctx context.Context, o options, b *backends, name string, readers int) error {
	p, err := startProxy(ctx, o, name, b)
	if err != nil {
		return err
	}
	defer p.stop()
	time.Sleep(300 * time.Millisecond)
	rss, kernel := p.rss(), tcpMemory()
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
	time.Sleep(2 * time.Second)
	user := float64(p.rss()-rss) / float64(readers)
	all := user + float64(tcpMemory()-kernel)/float64(readers)
	fmt.Printf("| %s | %.1f KB | %.1f MiB |\n", name, user/1024, all/(1<<20))
	if name == "hactl" {
		o.goals.atMost("a client that never reads, MiB in all", all/(1<<20), 16)
	}
	return nil
}

// tcpMemory is what all TCP sockets hold in the kernel, in bytes.
func tcpMemory() int {
	data, _ := os.ReadFile("/proc/net/sockstat")
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "TCP:"); ok {
			f := strings.Fields(rest)
			for i := 0; i+1 < len(f); i += 2 {
				if f[i] == "mem" {
					n, _ := strconv.Atoi(f[i+1])
					return n * os.Getpagesize()
				}
			}
		}
	}
	return 0
}
