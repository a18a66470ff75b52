package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
)

// systemdSocket is a socket as a socket unit's, and its address.
func systemdSocket(t *testing.T) (*os.File, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, ln.Addr().String()
}

// A socket unit and a service that disagree are told: systemd keeps the socket open, so that clients
// there would wait for ever. What both name is served.
func TestLBTellsOfSocketsItDoesNotServe(t *testing.T) {
	named, front := systemdSocket(t)
	metrics, probes := systemdSocket(t)
	other, unserved := systemdSocket(t)
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// LISTEN_PID must be its own; exec keeps it.
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec hactl "$@"`, "sh", "lb", "run", "--root", dir, "--check", "tcp",
		"--listen", front, "--listen-metrics", probes, "--backend", "127.0.0.1:1")
	cmd.Env = append(os.Environ(), "LISTEN_FDS=3")
	cmd.ExtraFiles = []*os.File{named, metrics, other}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := func() string { data, _ := os.ReadFile(log.Name()); return string(data) }
	testwait.For(t, "the balancer to serve", 20*time.Second, func() error {
		if s := said(); !strings.Contains(s, "load balancer serves") {
			return errors.New(s)
		}
		return nil
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, said())
	}
	var warned []string
	for line := range strings.Lines(said()) {
		if strings.Contains(line, "not served") {
			warned = append(warned, line)
		}
	}
	if len(warned) != 1 || !strings.Contains(warned[0], unserved) || !strings.Contains(warned[0], "ListenStream=") || !strings.Contains(warned[0], "systemd") {
		t.Errorf("want one warning of %s:\n%s", unserved, said())
	}
}
