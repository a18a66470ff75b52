package etcdcluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asideEnv has the test run once more, in a mount namespace of its own.
const asideEnv = "HACTL_TEST_ASIDE"

// Where a disk is mounted for etcd, the folder itself cannot be moved, and without
// a member's data in it it holds nothing to move.
func TestDataOnADiskOfTheirOwn(t *testing.T) {
	dir := os.Getenv(asideEnv)
	if dir == "" {
		cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", os.Args[0], "-test.run", "^TestDataOnADiskOfTheirOwn$", "-test.v")
		cmd.Env = append(os.Environ(), asideEnv+"="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	data := filepath.Join(dir, "etcd")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=1M"); err != nil {
		t.Fatal(err)
	}
	if dataThere(data) {
		t.Error("an empty disk counts as data")
	}
	if err := os.MkdirAll(filepath.Join(data, memberDir, "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if !dataThere(data) {
		t.Error("data count as none")
	}
	if err := moveAside(data, data+".replaced-1"); err != nil {
		t.Fatal(err)
	}
	if dataThere(data) {
		t.Error("still there")
	}
	if _, err := os.Stat(filepath.Join(data, "etcd.replaced-1", memberDir, "wal")); err != nil {
		t.Errorf("not kept: %v", err)
	}
}
