//go:build faults || lab

package lease

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/testwait"
)

// world is an etcd, the candidates in front of it, and the sink behind their gates.
type world struct {
	t      *testing.T // of the fault that happens now
	root   *testing.T // of all faults
	dir    string
	bin    string
	etcd   *etcdtest.Cluster
	client *etcdlock.Client
	sink   *sink
	hosts  []*host
	rng    *rand.Rand
	lock   *lockHistory
}

// host is one candidate with its own way to etcd.
type host struct {
	w       *world
	name    string
	proxies []*proxy
	log     string        // what its work writes
	history string        // what podmaster and guard write
	mode    string        // of its work
	wrap    []string      // what podmaster is started by
	offset  time.Duration // of its clock
	proc    *process.Process
	out     *os.File
}

func newWorld(t *testing.T, bin string) *world {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{t: t, root: t, dir: t.TempDir(), bin: bin, rng: rand.New(rand.NewPCG(seed, 1)), lock: newLockHistory()}
	w.etcd = etcdtest.StartProcesses(t, 3, etcdtest.Options{})
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: w.etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	w.client = client
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.sink = newSink(t, ln)
	for i := range 3 {
		h := &host{w: w, name: fmt.Sprintf("m%d", i+1)}
		h.log, h.history = filepath.Join(w.dir, h.name+".work"), filepath.Join(w.dir, h.name+".history")
		w.lock.follow(h.name, h.history, 0)
		for _, ep := range w.etcd.Endpoints() {
			h.proxies = append(h.proxies, newProxy(t, strings.TrimPrefix(ep, "http://")))
		}
		w.hosts = append(w.hosts, h)
	}
	return w
}

// start starts the host's podmaster; mode tells the work how to behave.
func (h *host) start(mode string) {
	h.w.t.Helper()
	var eps []string
	for _, p := range h.proxies {
		eps = append(eps, "http://"+p.addr())
	}
	gate := freeAddr(h.w.t)
	self, err := os.Executable()
	if err != nil {
		h.w.t.Fatal(err)
	}
	if h.out == nil {
		if h.out, err = os.Create(filepath.Join(h.w.dir, h.name+".log")); err != nil {
			h.w.t.Fatal(err)
		}
		h.w.root.Cleanup(func() { h.kill(); _ = h.out.Close() })
	}
	h.mode = mode
	command := append(slices.Clone(h.wrap), h.w.bin,
		"--etcd-servers", strings.Join(eps, ","), "--key", key, "--whoami", h.name, "--gate", gate+"="+h.w.sink.addr(),
		"--stop-grace", "2s", "--history", h.history, "--", self)
	h.proc, err = process.Start(process.Config{
		Path: command[0], Args: command[1:],
		Env:    append(os.Environ(), workEnv+"="+strings.Join([]string{mode, h.log, gate, h.offset.String()}, ",")),
		Stdout: h.out, Stderr: h.out,
	})
	if err != nil {
		h.w.t.Fatal(err)
	}
}

// kill ends everything of the host.
func (h *host) kill() {
	_ = h.proc.Kill()
	h.proc.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := killWork(ctx, h.log); err != nil {
		h.w.root.Errorf("clean up %s: %v", h.name, err)
	}
}

// tree is podmaster, its guard and everything below.
func (h *host) tree() []int {
	rest, err := h.proc.Remaining()
	if err != nil {
		h.w.t.Fatal(err)
	}
	return rest
}

func (h *host) signal(sig syscall.Signal) {
	h.w.t.Helper()
	if err := h.proc.Signal(sig); err != nil {
		h.w.t.Fatalf("send %v to %s: %v", sig, h.name, err)
	}
}

func (h *host) signalAll(sig syscall.Signal) {
	for _, pid := range h.tree() {
		_ = syscall.Kill(pid, sig)
	}
}

// workPID is the pid of the command of the newest term.
func (h *host) workPID() int {
	recs := readLog(h.w.t, h.log)
	return recs[len(recs)-1].pid
}

// link breaks or mends the host's way to etcd.
func (h *host) link(m linkMode) {
	for _, p := range h.proxies {
		p.set(m)
	}
}

// holder waits until one host holds and its work has written in that term.
func (w *world) holder() *host {
	w.t.Helper()
	var found *host
	testwait.For(w.t, "a working holder", 60*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		info, err := etcdlock.Get(ctx, w.client, key, false)
		if err != nil {
			return err
		}
		for _, h := range w.hosts {
			if h.name != info.Holder {
				continue
			}
			recs := readLog(w.t, h.log)
			if len(recs) == 0 || recs[len(recs)-1].token != info.Token {
				return fmt.Errorf("%s holds with token %d, and its work has not written", h.name, info.Token)
			}
			if age := (lease.Boottime{}).Now() - recs[len(recs)-1].at; age > 200*time.Millisecond {
				return fmt.Errorf("the work of %s last wrote %v ago", h.name, age)
			}
			found = h
			return nil
		}
		return fmt.Errorf("holder %q", info.Holder)
	})
	return found
}

// phase waits for a random part of a renewal's period: faults hit any moment.
func (w *world) phase() { w.wait(time.Duration(w.rng.Int64N(int64(800 * time.Millisecond)))) }

// wait lets the fault last.
func (w *world) wait(d time.Duration) { <-time.After(d) }

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// killWork kills whatever still writes to log.
func killWork(ctx context.Context, log string) error {
	for {
		out, err := exec.CommandContext(ctx, "sh", "-c", `for p in /proc/[0-9]*; do tr '\0' '\n' <$p/environ 2>/dev/null | grep -q "^`+workEnv+`=.*`+log+`" && echo ${p#/proc/}; done; true`).Output()
		if err != nil {
			return err
		}
		n := 0
		for line := range strings.Lines(string(out)) {
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err == nil && pid != os.Getpid() && syscall.Kill(pid, syscall.SIGKILL) == nil {
				n++
			}
		}
		if n == 0 {
			return nil
		}
	}
}

// logs are the hosts' logs by their names.
func (w *world) logs() map[string]string {
	logs := map[string]string{}
	for _, h := range w.hosts {
		logs[h.name] = h.log
	}
	return logs
}

// reigns reads all hosts' logs.
func (w *world) reigns() []reign { return reignsIn(w.t, w.logs()) }

// judge fails the test on any overlap, on any late byte, and when the lock's own
// history is not that of one lock.
func (w *world) judge() int {
	w.t.Helper()
	w.lock.judge(w.t)
	return judge(w.t, w.reigns(), w.sink.arrivals(), false)
}
