package watchdog

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/hactl/hactl/internal/health"
)

// HTTP is a probe that wants 200 from a GET of url, such as
// https://10.0.0.1:6444/livez?exclude=etcd. The client's transport decides whom
// it trusts; let it not keep connections, so that accepting one is probed too.
func HTTP(client *http.Client, url string) health.Check {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return fmt.Errorf("probe %s: %w", url, err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		if err != nil {
			return fmt.Errorf("probe %s: %w", url, err)
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("probe %s: %s: %s", url, resp.Status, failedLines(string(body)))
		}
		return nil
	}
}

// failedLines keeps of a verbose health answer the checks that failed, else its
// first line.
func failedLines(body string) string {
	var failed []string
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "[-]") {
			failed = append(failed, strings.TrimSpace(line))
		}
	}
	if failed == nil {
		first, _, _ := strings.Cut(body, "\n")
		return first
	}
	return strings.Join(failed, ", ")
}

// Goroutines asks the process with metrics at url how many goroutines it has.
func Goroutines(client *http.Client, url string) func(ctx context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, fmt.Errorf("ask for goroutines: %w", err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, fmt.Errorf("ask for goroutines: %w", err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("ask for goroutines: %s: %s", url, resp.Status)
		}
		sc := bufio.NewScanner(io.LimitReader(resp.Body, 64<<20))
		for sc.Scan() {
			if v, ok := strings.CutPrefix(sc.Text(), "go_goroutines "); ok {
				n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
				if err != nil || n < 0 || n > 1<<40 {
					return 0, fmt.Errorf("ask for goroutines: %s says %q", url, v)
				}
				return int(n), nil
			}
		}
		return 0, fmt.Errorf("ask for goroutines: %s does not tell: %w", url, errors.Join(sc.Err(), io.EOF))
	}
}

// Handshake is a probe that wants a TLS handshake at address, verified by conf.
func Handshake(conf *tls.Config, address string) health.Check {
	return func(ctx context.Context) error {
		d := tls.Dialer{Config: conf}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		return conn.Close()
	}
}

// Connect is a probe that wants a TCP connection to address to be accepted.
func Connect(address string) health.Check {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		return conn.Close()
	}
}

// stoppedProcess says whether pid is Stopped by a signal (state T), or Frozen with
// its control group, which no state tells. One that a debugger holds (t) is
// neither: somebody is looking at it.
func stoppedProcess(pid int) Reason {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return ""
	}
	if stat, err := p.Stat(); err == nil && stat.State == "T" {
		return Stopped
	}
	groups, err := p.Cgroups()
	if err != nil {
		return ""
	}
	for _, g := range groups {
		if g.HierarchyID == 0 && groupFrozen(g.Path) {
			return Frozen
		}
	}
	return ""
}

// cgroup2 are the places where the unified hierarchy is mounted.
var cgroup2 = [...]string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// groupFrozen reports whether the control group at path is frozen, itself or by
// one above it.
func groupFrozen(path string) bool {
	for _, mount := range cgroup2 {
		b, err := os.ReadFile(filepath.Join(mount, path, "cgroup.events"))
		if err == nil {
			return strings.Contains("\n"+string(b), "\nfrozen 1\n")
		}
	}
	return false
}
