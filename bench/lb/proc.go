package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is a running program, with its children.
type proc struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func start(ctx context.Context, name string, args ...string) (*proc, error) {
	p := &proc{cmd: exec.CommandContext(ctx, name, args...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// stop ends the program and its group.
func (p *proc) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	timer := time.AfterFunc(3*time.Second, func() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	_ = p.cmd.Wait()
}

// pids are the program's and its children's.
func (p *proc) pids() []int {
	pids := []int{p.cmd.Process.Pid}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[0], pids[0]))
	if err == nil {
		for _, f := range strings.Fields(string(data)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// cpu is the processor time used so far, in seconds (ticks of 10 ms).
func (p *proc) cpu() float64 {
	var ticks float64
	for _, pid := range p.pids() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(data), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 {
			continue
		}
		u, _ := strconv.ParseFloat(f[11], 64)
		s, _ := strconv.ParseFloat(f[12], 64)
		ticks += u + s
	}
	return ticks / 100
}

// rss is the resident memory in bytes, files left out.
func (p *proc) rss() (sum int) {
	for _, pid := range p.pids() {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
				n, _ := strconv.Atoi(strings.Fields(rest)[0])
				sum += n << 10
			}
		}
	}
	return sum
}

func (p *proc) fds() (n int) {
	for _, pid := range p.pids() {
		es, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		n += len(es)
	}
	return n
}

// slab is the kernel's slab memory in bytes.
func slab() int {
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Slab:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n << 10
		}
	}
	return 0
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

func waitOpen(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

const bulkBytes = 16 << 20

type backends struct {
	*proc
	addrs []string
}

// startBackends runs one nginx worker on three addresses, with a 2-byte answer
// and a file of 16 MiB.
func startBackends(ctx context.Context, dir string, conns int) (*backends, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	b := &backends{}
	var listen strings.Builder
	for i := 2; i <= 4; i++ {
		addr := fmt.Sprintf("127.0.0.%d:%d", i, port)
		b.addrs = append(b.addrs, addr)
		fmt.Fprintf(&listen, "listen %s backlog=4096;\n", addr)
	}
	www := filepath.Join(dir, "www")
	if err := errors.Join(os.Mkdir(www, 0o755), os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(www, "bulk"), make([]byte, bulkBytes), 0o644)); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/backend.pid; error_log %[1]s/backend.log crit; worker_rlimit_nofile %[3]d;
events { worker_connections %[3]d; }
http { access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 3600s;
server { %[2]s location /s { return 200 "ok"; } location / { root %[1]s/www; } } }`, dir, listen.String(), openFiles(2*conns+spareFiles))
	file := filepath.Join(dir, "backend.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	if b.proc, err = start(ctx, "nginx", "-c", file, "-e", filepath.Join(dir, "backend.log")); err != nil {
		return nil, err
	}
	return b, waitOpen(ctx, b.addrs[0])
}
