package acceptance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fake is a kubectl that runs script.
func fake(t *testing.T, script string) kubectl {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "kubectl")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return kubectl{program: path, kubeconfig: filepath.Join(dir, "kubeconfig"), cache: dir}
}

// A refusal counts only for the right reason.
func TestRefusal(t *testing.T) {
	for _, c := range []struct {
		name, script, want string // want in refusal's error; "": it is content
	}{
		{"for the reason", "echo 'pods is forbidden: exceeded quota: small' >&2; exit 1", ""},
		{"for another reason", "echo 'connection refused' >&2; exit 1", "refused for another reason"},
		{"not refused", "echo created", "worked: created"},
		{"the words without a failure", "echo 'exceeded quota' >&2", "worked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := fake(t, c.script).refusal(t, "exceeded quota", "", "create", "-f", "-")
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestRun(t *testing.T) {
	k := fake(t, `echo "$KUBECONFIG $1 $(cat)"`)
	got, err := k.run(t.Context(), "input", "version")
	if want := k.kubeconfig + " version input\n"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	_, err = fake(t, "echo sorry >&2; exit 3").run(t.Context(), "", "get", "pods")
	if err == nil || !strings.Contains(err.Error(), "kubectl get pods: exit status 3: sorry") {
		t.Errorf("got %v", err)
	}
}

func TestSame(t *testing.T) {
	if err := same([]string{"b", "a"}, []string{"a", "b"}); err != nil {
		t.Error(err)
	}
	for _, got := range [][]string{nil, {"a"}, {"a", "a"}, {"a", "b", "c"}} {
		if same(got, []string{"a", "b"}) == nil {
			t.Errorf("%q passed", got)
		}
	}
}

func TestNames(t *testing.T) {
	if got := names("pod/a\npod/b\nc\n"); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("got %q", got)
	}
}

func TestABACFiles(t *testing.T) {
	policy, tokens, err := ABACFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	eve := 0
	for _, path := range []string{policy, tokens} {
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, fi, err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, "eve") {
				eve++
			}
			if path == policy && !json.Valid([]byte(line)) {
				t.Errorf("no JSON: %s", line)
			}
			if path == tokens && strings.Count(line, ",") != 2 {
				t.Errorf("not token,name,uid: %s", line)
			}
		}
	}
	if eve != 1 {
		t.Errorf("eve is in %d lines: she has a token and no rights", eve)
	}
}
