// Command dev measures a whole control plane under hactl dev: how fast it starts,
// what it weighs, what clients see of each kill, and how soon a lost singleton's
// successor works, beside kube-scheduler's own leader election. It prints; it
// judges nothing.
//
//	make build kube && go run ./bench/dev
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	repeats := flag.Int("repeats", 5, "how often each fault is repeated")
	bin := flag.String("bin", "bin", "folder of hactl, podmaster and kube/")
	network := flag.String("network", "127.0.41.0", "loopback /24 for the masters")
	only := flag.String("only", "", "measure only these, separated by commas: memory, gaps, singletons, election")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *network, *repeats, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench/dev:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, network string, repeats int, only string) (err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hactl-bench-")
	if err != nil {
		return err
	}
	c := &cluster{bin: bin, dir: filepath.Join(dir, "c"), network: network, frontDoor: strings.TrimSuffix(network, ".0") + ".100:6443"}
	defer func() {
		_, downErr := c.hactl(context.WithoutCancel(ctx), "dev", "down", "--purge", "--yes")
		err = errors.Join(err, downErr, os.RemoveAll(dir))
	}()
	if err := starts(ctx, c, repeats); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context, *cluster, int) error
	}{{"memory", memory}, {"gaps", gaps}, {"singletons", singletons}, {"election", ownElection}} {
		if only != "" && !slices.Contains(strings.Split(only, ","), step.name) {
			continue
		}
		if err := step.run(ctx, c, repeats); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// starts times `dev up` from nothing, and again with the data there.
func starts(ctx context.Context, c *cluster, repeats int) error {
	var cold, warm []time.Duration
	for i := range min(repeats, 3) {
		took, err := c.up(ctx)
		if err != nil {
			return err
		}
		if i == 0 {
			cold = append(cold, took)
		} else {
			warm = append(warm, took)
		}
		if i < min(repeats, 3)-1 {
			if _, err := c.hactl(ctx, "dev", "down"); err != nil {
				return err
			}
		}
	}
	fmt.Println("dev up, three masters, to healthy")
	show("first, with new keys", cold)
	show("again, on its data", warm)
	return nil
}

// memory prints the resident memory of each kind of process.
func memory(_ context.Context, c *cluster, _ int) error {
	fmt.Println("\nmemory of a process, idle (RSS, MiB)")
	kinds := map[string][]float64{}
	procs, err := c.processes()
	if err != nil {
		return err
	}
	var sum float64
	for _, p := range procs {
		kinds[p.kind] = append(kinds[p.kind], p.rss)
		sum += p.rss
	}
	names := make([]string, 0, len(kinds))
	for k := range kinds {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		fmt.Printf("  %-28s %2d × %6.1f (largest %.1f)\n", k, len(kinds[k]), mean(kinds[k]), slices.Max(kinds[k]))
	}
	fmt.Printf("  %-28s      %6.1f\n", "all", sum)
	return nil
}

// gaps kills each kind of process while a client reads through the front door,
// each time over a new connection, and prints the longest time without an answer.
func gaps(ctx context.Context, c *cluster, repeats int) error {
	fmt.Println("\nlongest time between two answers that a client saw, a read on a new connection each 20 ms")
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := gap(ctx, c, cl, "nothing (the control)", repeats, func(context.Context) error { return nil }); err != nil {
		return err
	}
	leader := func(ctx context.Context) (string, error) { return c.etcdLeader(ctx) }
	any1 := func(context.Context) (string, error) { return "m1", nil }
	for _, k := range []struct {
		proc  string
		where func(context.Context) (string, error)
		label string
	}{
		{"hactl-etcd", leader, "etcd leader"}, {"kube-apiserver", any1, "kube-apiserver"}, {"hactl-lb", any1, "a master's balancer"},
		{"hactl-agent", any1, "agent"}, {"podmaster@kube-scheduler", any1, "podmaster"},
	} {
		err := gap(ctx, c, cl, "SIGKILL "+k.label, repeats, func(ctx context.Context) error {
			m, err := k.where(ctx)
			if err != nil {
				return err
			}
			_, err = c.hactl(ctx, "dev", "kill", m, k.proc)
			return err
		})
		if err != nil {
			return err
		}
	}
	err = gap(ctx, c, cl, "SIGSTOP kube-apiserver", min(repeats, 3), func(ctx context.Context) error {
		_, err := c.hactl(ctx, "dev", "pause", "m2", "kube-apiserver")
		return err
	})
	if err != nil {
		return err
	}
	return gap(ctx, c, cl, "a whole master stopped", min(repeats, 3), func(ctx context.Context) error {
		_, err := c.hactl(ctx, "dev", "stop", "m3")
		return err
	})
}

// singletons times from the death of a scheduler until a pod that was created
// right after it is bound to a node.
func singletons(ctx context.Context, c *cluster, repeats int) error {
	fmt.Println("\nfrom the scheduler's death until a new pod is bound")
	cl, err := c.client()
	if err != nil {
		return err
	}
	var none []time.Duration
	for range repeats {
		d, err := cl.bindPod(ctx)
		if err != nil {
			return err
		}
		none = append(none, d)
	}
	show("nothing died (the control)", none)
	for _, k := range []struct{ label, proc string }{
		{"SIGKILL kube-scheduler", "kube-scheduler"}, {"SIGKILL its podmaster", "podmaster@kube-scheduler"},
	} {
		var took []time.Duration
		for range repeats {
			holder, err := c.holder(ctx, "kube-scheduler")
			if err != nil {
				return err
			}
			began := time.Now()
			if _, err := c.hactl(ctx, "dev", "kill", holder, k.proc); err != nil {
				return err
			}
			if _, err := cl.bindPod(ctx); err != nil {
				return err
			}
			took = append(took, time.Since(began))
			if err := c.healthy(ctx); err != nil {
				return err
			}
		}
		show(k.label, took)
	}
	return nil
}

// ownElection does the same with two kube-schedulers that elect by themselves,
// with their default times, as kubeadm runs them.
func ownElection(ctx context.Context, c *cluster, repeats int) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if _, err := c.hactl(ctx, "singleton", "pause", "--yes", "kube-scheduler", "--root", filepath.Join(c.dir, "m1")); err != nil {
		return err
	}
	var took []time.Duration
	for range min(repeats, 3) {
		d, err := oneElection(ctx, c, cl)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	show("peer: kube-scheduler's own election", took)
	_, err = c.hactl(ctx, "singleton", "resume", "kube-scheduler", "--root", filepath.Join(c.dir, "m1"))
	return err
}

func oneElection(ctx context.Context, c *cluster, cl *client) (time.Duration, error) {
	var procs []*exec.Cmd
	defer func() {
		for _, p := range procs {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	}()
	for i := range 2 {
		p := exec.CommandContext(ctx, filepath.Join(c.bin, "kube/kube-scheduler"), "--kubeconfig", filepath.Join(c.dir, "kubeconfig"),
			"--leader-elect=true", "--secure-port", fmt.Sprint(18259+i), "--bind-address", strings.TrimSuffix(c.network, ".0")+".100")
		if err := p.Start(); err != nil {
			return 0, err
		}
		procs = append(procs, p)
		if i == 0 { // it leads; the other waits
			if _, err := cl.bindPod(ctx); err != nil {
				return 0, err
			}
		}
	}
	// The second one must have seen the lease before the first dies.
	if err := waitUntil(ctx, "the standby", func() error { return listening(c, 18260) }); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := procs[0].Process.Kill(); err != nil {
		return 0, err
	}
	_, err := cl.bindPod(ctx)
	return time.Since(began), err
}

func show(label string, took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	fmt.Printf("  %-38s median %8v   min %8v   max %8v   (%d)\n", label, round(took[len(took)/2]), round(took[0]), round(took[len(took)-1]), len(took))
}

func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}

func mean(xs []float64) float64 {
	var s float64
	for _, x := range xs {
		s += x
	}
	return s / float64(len(xs))
}
