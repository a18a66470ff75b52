package acceptance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/testwait"
)

// startKWOK plays all nodes of the cluster until the test has ended.
func (r *run) startKWOK(t *testing.T) {
	t.Helper()
	StartKWOK(t, r.cfg.KWOK, r.cfg.KWOKStages, r.kubeconfig)
}

// StartKWOK starts kwok, which plays every node of the cluster (makes it ready,
// keeps its lease, runs the pods bound to it), and ends it with the test. Its
// log is shown when the test failed. Nodes are ordinary Node objects; anybody
// may create them.
func StartKWOK(tb testing.TB, kwok, stages, kubeconfig string) {
	tb.Helper()
	dir := tb.TempDir()
	config, err := exec.Command(stages).Output()
	if err != nil {
		tb.Fatalf("stages of kwok: %v", err)
	}
	stageFile := filepath.Join(dir, "stages.yaml")
	if err := os.WriteFile(stageFile, config, 0o644); err != nil {
		tb.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "kwok.log"))
	if err != nil {
		tb.Fatal(err)
	}
	p, err := process.Start(process.Config{
		Path: kwok,
		Args: []string{
			"--kubeconfig=" + kubeconfig, "--config=" + stageFile,
			"--manage-all-nodes=true", "--node-lease-duration-seconds=40",
		},
		// It reads ~/.kwok/kwok.yaml too.
		Env:    append(os.Environ(), "HOME="+dir),
		Stdout: log, Stderr: log,
	})
	if err != nil {
		tb.Fatalf("start kwok: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		p.Stop(ctx, 10*time.Second)
		log.Close()
		if tb.Failed() {
			data, err := os.ReadFile(log.Name())
			tb.Logf("kwok's log (%v):\n%s", err, data[max(0, len(data)-4000):])
		}
	})
	testwait.For(tb, "kwok to run", 10*time.Second, func() error {
		select {
		case <-p.Done():
			return fmt.Errorf("kwok ended: %v", p.Exit())
		default:
			return p.Signal(syscall.Signal(0))
		}
	})
}

// The nodes of a run: two with spinning disks and one with an SSD, in three
// zones.
var nodeLabels = []struct{ suffix, disk, zone string }{
	{"node1", "hdd", "a"},
	{"node2", "hdd", "b"},
	{"node3", "ssd", "c"},
}

func (r *run) node(suffix string) string { return r.id + "-" + suffix }

// nodes makes the run's nodes and waits until they are ready.
func (r *run) nodes(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		// While the nodes are there, the pods on them end in no time.
		r.do(t, "wait", "--for=delete", "namespaces", "-l", "acceptance="+r.id, patience)
		r.do(t, "delete", "nodes", "-l", "acceptance="+r.id, patience)
	})
	for _, n := range nodeLabels {
		r.apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata:
  name: %[1]s
  labels: {acceptance: %[2]s, kubernetes.io/hostname: %[1]s, disk: %[3]s, zone: %[4]s}
status:
  allocatable: {cpu: "8", memory: 16Gi, pods: "110"}
  capacity: {cpu: "8", memory: 16Gi, pods: "110"}
`, r.node(n.suffix), r.id, n.disk, n.zone), "create", "-f", "-")
	}
	r.do(t, "wait", "--for=condition=Ready", "nodes", "-l", "acceptance="+r.id, patience)
}
