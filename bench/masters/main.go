// Command masters measures real masters: three systemd hosts become a cluster by
// hactl bootstrap, a fourth joins, all lose power and come back. It prints; it
// judges nothing.
//
//	make build kube && sudo go run ./bench/masters
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/test/hosts"
)

// limit bounds whatever is waited for.
const limit = 5 * time.Minute

func main() {
	repeats := flag.Int("repeats", 3, "how often everything is repeated, each time on new hosts")
	bin := flag.String("bin", "bin", "folder of hactl, podmaster and kube/")
	verbose := flag.Bool("v", false, "show what bootstrap and join say")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := &bench{bin: *bin, verbose: *verbose, took: map[string][]time.Duration{}}
	for i := range *repeats {
		fmt.Fprintf(os.Stderr, "run %d of %d\n", i+1, *repeats)
		if err := b.run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench/masters:", err)
			stop()
			os.Exit(1)
		}
	}
	b.print()
}

// What is measured, and what is aimed at.
var rows = []struct {
	name string
	aim  time.Duration // 0: nothing
}{
	{"bootstrap of three hosts, start to ready", 30 * time.Second},
	{"  … to hactl status healthy", 0},
	{"join of a fourth", 20 * time.Second},
	{"power cut of all, power to the first write", 30 * time.Second},
	{"  … to hactl status healthy", 0},
	{"  … of which the hosts' boot", 0},
}

const (
	rowBootstrap = iota
	rowBootstrapHealthy
	rowJoin
	rowPower
	rowPowerHealthy
	rowBoot
)

type bench struct {
	bin     string
	verbose bool
	lab     *hosts.Lab
	mu      sync.Mutex
	took    map[string][]time.Duration // by row's number and name
}

func key(row int) string { return fmt.Sprintf("%d %s", row, rows[row].name) }

func (b *bench) add(row int, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took[key(row)] = append(b.took[key(row)], d)
	fmt.Fprintf(os.Stderr, "%-45s %6.1f s\n", rows[row].name, d.Seconds())
}

func (b *bench) print() {
	fmt.Printf("%-45s %8s %8s %8s %8s   of %d\n", "", "min", "median", "max", "aim", len(b.took[key(rowBootstrap)]))
	for i, r := range rows {
		d := b.took[key(i)]
		slices.Sort(d)
		aim := ""
		if r.aim > 0 {
			aim = fmt.Sprintf("%.0f s", r.aim.Seconds())
		}
		fmt.Printf("%-45s %6.1f s %6.1f s %6.1f s %8s\n", r.name, d[0].Seconds(), d[len(d)/2].Seconds(), d[len(d)-1].Seconds(), aim)
	}
}

// run measures each once.
func (b *bench) run(ctx context.Context) (err error) {
	bin, err := filepath.Abs(b.bin)
	if err != nil {
		return err
	}
	kube, err := filepath.EvalSymlinks(filepath.Join(bin, "kube"))
	if err != nil {
		return fmt.Errorf("%w: make build kube", err)
	}
	if b.lab, err = hosts.Up(ctx, hosts.Config{Hosts: 4, Binds: []hosts.Bind{
		{Source: bin, Target: "/opt/hactl/bin"}, {Source: kube, Target: "/opt/hactl/kube"},
	}}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.Down(context.WithoutCancel(ctx))) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	three := []string{"m1", "m2", "m3"}
	if err := b.bootstrap(ctx, three); err != nil {
		return err
	}
	if err := b.powerCycle(ctx, three); err != nil {
		return err
	}
	return b.join(ctx)
}

func (b *bench) prepare(ctx context.Context) error {
	token := pki.NewToken(time.Now().Add(time.Hour))
	for _, h := range b.lab.Hosts() {
		if err := h.WriteFile(ctx, "/etc/hactl/token", []byte(token+"\n"), 0o600); err != nil {
			return err
		}
	}
	return b.configure(ctx, 3)
}

// configure gives all hosts a configuration with the first n as masters.
func (b *bench) configure(ctx context.Context, n int) error {
	text := "apiVersion: hactl/v1alpha1\nkind: Cluster\nname: bench\nmasters:\n"
	for _, h := range b.lab.Hosts()[:n] {
		text += fmt.Sprintf("  - {name: %s, address: %s}\n", h.Name(), h.Address())
	}
	for _, h := range b.lab.Hosts() {
		if err := h.WriteFile(ctx, "/etc/hactl/cluster.yaml", []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) hactl(ctx context.Context, host string, args ...string) (string, error) {
	h, err := b.lab.Named(host)
	if err != nil {
		return "", err
	}
	cmd, err := h.Command(ctx, append([]string{"/opt/hactl/bin/hactl"}, args...)...)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	cmd.Stdout = &out
	if b.verbose && args[0] != "status" {
		cmd.Stderr = os.Stderr
	}
	err = cmd.Run()
	return out.String(), err
}

// onAll calls f for each at the same time.
func onAll(names []string, f func(name string) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, n := range names {
		wg.Go(func() { errs[i] = f(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (b *bench) bootstrap(ctx context.Context, names []string) error {
	began := time.Now()
	if err := onAll(names, func(n string) error {
		_, err := b.hactl(ctx, n, "bootstrap")
		return err
	}); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	b.add(rowBootstrap, time.Since(began))
	if err := b.healthy(ctx, names[0]); err != nil {
		return err
	}
	b.add(rowBootstrapHealthy, time.Since(began))
	return nil
}

func (b *bench) join(ctx context.Context) error {
	if err := b.configure(ctx, 4); err != nil {
		return err
	}
	began := time.Now()
	if _, err := b.hactl(ctx, "m4", "join", "--allow-even"); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	b.add(rowJoin, time.Since(began))
	return nil
}

// powerCycle cuts the power of all at once, and counts from its return.
func (b *bench) powerCycle(ctx context.Context, names []string) error {
	write, err := b.writer(ctx, names)
	if err != nil {
		return err
	}
	if err := b.onHosts(names, func(h *hosts.Host) error { return h.PowerOff(ctx) }); err != nil {
		return err
	}
	began := time.Now()
	booted := make(chan error, 1)
	go func() {
		err := b.onHosts(names, func(h *hosts.Host) error { return h.PowerOn(ctx) })
		b.add(rowBoot, time.Since(began))
		booted <- err
	}()
	if err := b.until(ctx, "a write", write); err != nil {
		return errors.Join(err, <-booted)
	}
	b.add(rowPower, time.Since(began))
	if err := <-booted; err != nil {
		return err
	}
	if err := b.healthy(ctx, names[0]); err != nil {
		return err
	}
	b.add(rowPowerHealthy, time.Since(began))
	if b.verbose {
		return b.onHosts(names, func(h *hosts.Host) error {
			out, err := h.Exec(ctx, "sh", "-c", "systemd-analyze blame --no-pager | head -n 8")
			fmt.Fprint(os.Stderr, out)
			return err
		})
	}
	return nil
}

func (b *bench) onHosts(names []string, f func(*hosts.Host) error) error {
	return onAll(names, func(n string) error {
		h, err := b.lab.Named(n)
		if err != nil {
			return err
		}
		return f(h)
	})
}

// writer returns a function that writes once, as an administrator, through
// whichever front door is the first to answer.
func (b *bench) writer(ctx context.Context, names []string) (func() error, error) {
	text, err := b.lab.Host(1).ReadFile(ctx, "/etc/kubernetes/admin.conf")
	if err != nil {
		return nil, err
	}
	k, err := pki.ParseKubeconfig(text)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(k.Cert, k.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.CA)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: b.lab.DialContext, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, ServerName: pki.APIServerName, MinVersion: tls.VersionTLS13},
	}}
	return func() error {
		answers := make(chan error, len(names))
		for _, n := range names {
			go func() { answers <- create(ctx, client, n) }()
		}
		var errs []error
		for range names {
			err := <-answers
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}, nil
}

func create(ctx context.Context, client *http.Client, host string) error {
	body := strings.NewReader(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"after-"}}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+":6443/api/v1/namespaces/default/configmaps", body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s: %s", host, resp.Status)
	}
	return nil
}

func (b *bench) healthy(ctx context.Context, host string) error {
	return b.until(ctx, "a healthy cluster", func() error {
		out, _ := b.hactl(ctx, host, "status", "-o", "json")
		var r status.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return err
		}
		if r.Verdict != status.Healthy {
			return fmt.Errorf("%s: %v", r.Verdict, r.Reasons)
		}
		return nil
	})
}

func (b *bench) until(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
