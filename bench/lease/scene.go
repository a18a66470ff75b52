package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/process"
)

const workArg = "__work"

// work writes its pid and the boot-time clock to file every 2 ms.
func work(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for tick := time.NewTicker(2 * time.Millisecond); ; <-tick.C {
		if _, err := fmt.Fprintf(f, "%d %d\n", os.Getpid(), lease.Boottime{}.Now()); err != nil {
			return err
		}
	}
}

// scene is three etcd members and three candidates.
type scene struct {
	o    options
	dir  string
	etcd [3]*process.Process
	cand [3]*process.Process
	runs int
	log  string // of the work, all candidates together
	who  string
	args []string // podmaster's, besides the usual
}

func etcdURL(i int, port int) string { return fmt.Sprintf("http://127.210.0.%d:%d", i+1, port) }

func endpoints() string {
	return etcdURL(0, 2379) + "," + etcdURL(1, 2379) + "," + etcdURL(2, 2379)
}

func (s *scene) startEtcd(ctx context.Context) error {
	for i := range s.etcd {
		if err := s.startMember(i); err != nil {
			return err
		}
	}
	return s.until(ctx, "etcd to serve", func() error {
		return exec.CommandContext(ctx, s.o.etcdctl, "--endpoints", endpoints(), "endpoint", "health").Run()
	})
}

func (s *scene) startMember(i int) error {
	var cluster []string
	for j := range s.etcd {
		cluster = append(cluster, fmt.Sprintf("m%d=%s", j+1, etcdURL(j, 2380)))
	}
	p, err := process.Start(process.Config{Path: s.o.etcd, Args: []string{
		"--name", fmt.Sprintf("m%d", i+1), "--data-dir", filepath.Join(s.dir, fmt.Sprintf("etcd%d", i)), "--log-level", "fatal",
		"--listen-client-urls", etcdURL(i, 2379), "--advertise-client-urls", etcdURL(i, 2379),
		"--listen-peer-urls", etcdURL(i, 2380), "--initial-advertise-peer-urls", etcdURL(i, 2380),
		"--initial-cluster", strings.Join(cluster, ","), "--auto-compaction-retention=5m",
	}})
	s.etcd[i] = p
	return err
}

func (s *scene) end() {
	for _, p := range append(s.cand[:], s.etcd[:]...) {
		if p != nil {
			_ = p.Kill()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := process.KillDescendants(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// fresh starts three candidates for a key and a log of their own.
func (s *scene) fresh(ctx context.Context, who string) error {
	s.who = who
	s.runs++
	s.log = filepath.Join(s.dir, fmt.Sprintf("work%d", s.runs))
	for i := range s.cand {
		if err := s.start(i); err != nil {
			return err
		}
	}
	return s.until(ctx, "the work to begin", func() error { _, err := s.last(); return err })
}

func (s *scene) start(i int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	key := fmt.Sprintf("bench%d", s.runs)
	args := []string{"--etcd-servers", endpoints(), "--key", key, "--whoami", fmt.Sprintf("m%d", i+1), "--log-level", "error"}
	args = append(append(args, s.args...), "--", self, workArg, s.log)
	cfg := process.Config{Path: s.o.podmaster, KeepGroup: true, Args: args}
	if s.who == "etcdctl lock" {
		cfg.Path, cfg.Args = s.o.etcdctl, []string{"--endpoints", endpoints(), "lock", "--ttl", "3", key, "--", self, workArg, s.log}
	}
	s.cand[i], err = process.Start(cfg)
	return err
}

// stopAll ends the candidates and what they left.
func (s *scene) stopAll() {
	for i, p := range s.cand {
		if p == nil {
			continue
		}
		_ = p.SignalTree(syscall.SIGKILL)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := p.KillRemaining(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		cancel()
		p.Wait()
		s.cand[i] = nil
	}
	process.ReapOrphans(append(s.etcd[:], s.cand[:]...)...)
}

// line is one line of the work.
type line struct {
	pid int
	at  time.Duration
}

func (s *scene) lines() ([]line, error) {
	data, err := os.ReadFile(s.log)
	if err != nil {
		return nil, err
	}
	var out []line
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		a, b, _ := strings.Cut(sc.Text(), " ")
		pid, err1 := strconv.Atoi(a)
		at, err2 := strconv.ParseInt(b, 10, 64)
		if err1 == nil && err2 == nil {
			out = append(out, line{pid, time.Duration(at)})
		}
	}
	return out, nil
}

func (s *scene) last() (line, error) {
	all, err := s.lines()
	if err != nil {
		return line{}, err
	}
	if len(all) == 0 {
		return line{}, errors.New("no line yet")
	}
	return all[len(all)-1], nil
}

// holder is the candidate whose descendant pid is.
func (s *scene) holder(pid int) (int, error) {
	for i, p := range s.cand {
		if p == nil {
			continue
		}
		rest, err := p.Remaining()
		if err != nil {
			return 0, err
		}
		for _, r := range rest {
			if r == pid {
				return i, nil
			}
		}
	}
	return 0, fmt.Errorf("nobody runs pid %d", pid)
}

// leader is the index of etcd's leader.
func (s *scene) leader(ctx context.Context) (int, error) {
	for i := range s.etcd {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, etcdURL(i, 2379)+"/metrics", nil)
		if err != nil {
			return 0, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		sc := bufio.NewScanner(resp.Body)
		for sc.Scan() {
			if sc.Text() == "etcd_server_is_leader 1" {
				_ = resp.Body.Close()
				return i, nil
			}
		}
		_ = resp.Body.Close()
	}
	return 0, errors.New("no leader")
}

func (s *scene) until(ctx context.Context, what string, f func() error) error {
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// phase is a random part of a renewal's period.
func phase(ctx context.Context) error {
	return pause(ctx, 300*time.Millisecond+time.Duration(rand.Int64N(int64(900*time.Millisecond))))
}
