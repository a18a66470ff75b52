package layout

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestZeroValueIsTheRealMachine(t *testing.T) {
	var l Layout
	for got, want := range map[string]string{
		l.ConfigFile():        "/etc/hactl/cluster.yaml",
		l.State():             "/var/lib/hactl",
		l.EtcdData():          "/var/lib/hactl/etcd",
		l.Run():               "/run/hactl",
		l.PKI():               "/etc/kubernetes/pki",
		l.Kubeconfig("admin"): "/etc/kubernetes/admin.conf",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestMkdirAllStaysUnderRoot(t *testing.T) {
	root := t.TempDir()
	l := Layout{Root: root}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	for path, perm := range map[string]os.FileMode{l.State(): 0o700, l.PKI(): 0o700, l.Run(): 0o755} {
		if !strings.HasPrefix(path, root+string(filepath.Separator)) {
			t.Errorf("%s is not below %s", path, root)
		}
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != perm {
			t.Errorf("%s: %v %v, want %v", path, fi.Mode(), err, perm)
		}
	}
}
