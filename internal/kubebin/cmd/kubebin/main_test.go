package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
)

func TestRun(t *testing.T) {
	ready := t.TempDir()
	for _, name := range []string{"kwok", "kwok-stages"} {
		if err := os.WriteFile(filepath.Join(ready, name), []byte("#!/bin/sh\necho kwok version v0.8.0\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "bin", "kwok")
	getenv := func(key string) string {
		return map[string]string{"HACTL_KWOK_BIN": ready, "HACTL_CACHE": filepath.Join(t.TempDir(), "cache")}[key]
	}
	for _, c := range []struct {
		name     string
		args     []string
		code     int
		out, err string
	}{
		{"ready and linked", []string{"--link", link, "kwok"}, exitcode.OK, ready + "\n", ""},
		{"where", []string{"--where"}, exitcode.OK, filepath.Join("cache", "kube", "v"), ""},
		{"help", []string{"--help"}, exitcode.OK, "", ""},
		{"unknown set", []string{"etcd"}, exitcode.Usage, "", `no set "etcd"`},
		{"two sets", []string{"kube", "kwok"}, exitcode.Usage, "", "one set at a time"},
		{"unknown flag", []string{"--lnk", "x"}, exitcode.Usage, "", "not defined: -lnk"},
		{"no repository", []string{"--root", t.TempDir(), "kwok"}, exitcode.Failed, "", "go.mod"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			err := run(t.Context(), c.args, &stdout, &stderr, getenv)
			if exitcode.Of(err) != c.code {
				t.Fatalf("code %d, want %d: %v", exitcode.Of(err), c.code, err)
			}
			if err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %q does not say %q", err, c.err)
			}
			if !strings.Contains(stdout.String(), c.out) {
				t.Errorf("stdout %q does not hold %q", stdout.String(), c.out)
			}
			if c.name == "help" && !strings.Contains(stderr.String(), "HACTL_KUBE_BIN") {
				t.Errorf("help: %s", stderr.String())
			}
		})
	}
	if to, err := os.Readlink(link); err != nil || to != ready {
		t.Errorf("link leads to %s, %v", to, err)
	}
}
