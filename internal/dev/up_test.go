package dev

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/master"
)

// fakePrograms are scripts that only tell a version: refusals come before any of
// them is run as what its name says.
func fakePrograms(t *testing.T) master.Programs {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"hactl", "podmaster", "kube-apiserver", "kube-scheduler", "kube-controller-manager"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho Kubernetes v1.36.3\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return master.Programs{Hactl: filepath.Join(dir, "hactl"), Podmaster: filepath.Join(dir, "podmaster"), KubeBin: dir}
}

func TestARefusedUpBindsNobody(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.91.100:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := filepath.Join(t.TempDir(), "d")
	_, _, err = Up(context.Background(), Config{Dir: dir, Network: "127.0.91.0", FrontDoor: ln.Addr().String(), Programs: fakePrograms(t)})
	if err == nil || !strings.Contains(err.Error(), ln.Addr().String()+" is taken by process") {
		t.Fatalf("err = %v, want one that names the port", err)
	}
	if exists(dir) {
		t.Errorf("the refused up made %s", dir)
	}
}

func TestUsable(t *testing.T) {
	for name, want := range map[string]bool{".dev.json.tmp-123": true, "lock": true, "thesis.tex": false} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		err := usable(dir)
		if (err == nil) != want {
			t.Errorf("%s: %v, want usable=%v", name, err, want)
		}
		if !want && exitcode.Of(err) != exitcode.Refused {
			t.Errorf("%s: code %d", name, exitcode.Of(err))
		}
	}
	if err := usable(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
}
