//go:build lab

package lease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/test/hosts"
)

const (
	podmaster  = "podmaster@work.service"
	workUnit   = "work.service"
	gateListen = "127.0.0.1:9999"
)

// labWorld is three booted hosts, each with an etcd member and a podmaster under
// its own systemd, and the sink at the observer.
type labWorld struct {
	t, root *testing.T
	lab     *hosts.Lab
	shared  string // a folder of the machine that every host sees as /shared
	hosts   []*labHost
	sink    *sink
	gateTo  string
	client  *etcdlock.Client
	etcd    *clientv3.Client
	rng     *rand.Rand
	now     labMode
	lock    *lockHistory
}

// labHost is one host; log is what its work writes, as the machine sees it.
type labHost struct {
	*hosts.Host
	log string
}

// labMode is how the hosts are set up.
type labMode struct {
	unit bool   // podmaster has a unit; else a command
	work string // the work's own mode
	more string // further lines of the unit's [Service]
	own  string // further lines of podmaster's
	conf string // further lines of podmaster's file
}

func newLabWorld(t *testing.T, smallDisks bool) *labWorld {
	t.Helper()
	return newLabWorldOf(t, hosts.Config{Packages: []string{"strace"}}, smallDisks)
}

// newLabWorldOf is newLabWorld with other hosts.
func newLabWorldOf(t *testing.T, cfg hosts.Config, smallDisks bool) *labWorld {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &labWorld{t: t, root: t, rng: rand.New(rand.NewPCG(seed, 1)), lock: newLockHistory()}
	dir, err := os.MkdirTemp("/var/tmp", "hactl-faults-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w.shared = filepath.Join(dir, "shared")
	labs := filepath.Join(dir, "labs")
	if err := errors.Join(os.Mkdir(w.shared, 0o755), os.Mkdir(labs, 0o700)); err != nil {
		t.Fatal(err)
	}
	bin := w.programs(dir)
	cfg.Dir = labs
	cfg.Binds = append(cfg.Binds, hosts.Bind{Source: w.shared, Target: "/shared", Writable: true})
	for _, name := range []string{"podmaster", "etcd", "work"} {
		cfg.Binds = append(cfg.Binds, hosts.Bind{Source: filepath.Join(bin, name), Target: "/usr/local/bin/" + name})
	}
	w.lab, err = hosts.Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.tellAll()
		}
		if err := w.lab.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	for _, h := range w.lab.Hosts() {
		w.hosts = append(w.hosts, &labHost{Host: h, log: filepath.Join(w.shared, h.Name())})
		w.lock.follow(h.Name(), filepath.Join(w.shared, h.Name()+".history"), 0)
	}
	ln, err := w.lab.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	w.sink = newSink(t, ln)
	w.gateTo = fmt.Sprintf("10.245.1.1:%d", ln.Addr().(*net.TCPAddr).Port)
	w.startEtcd(smallDisks)
	return w
}

// programs puts what the hosts run into a folder: podmaster, stock etcd, and this
// test binary, which is the work.
func (w *labWorld) programs(dir string) string {
	w.t.Helper()
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "podmaster"), "../../../cmd/podmaster")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		w.t.Fatalf("build podmaster: %v\n%s", err, out)
	}
	out, err := exec.Command("go", "run", "../../../internal/kubebin/cmd/kubebin", "--where", "peers").Output()
	if err != nil {
		w.t.Fatalf("where is stock etcd: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	for name, from := range map[string]string{"etcd": filepath.Join(strings.TrimSpace(string(out)), "etcd"), "work": self} {
		if err := copyFile(from, filepath.Join(bin, name)); err != nil {
			w.t.Fatalf("%v; make the peers with: go run ./internal/kubebin/cmd/kubebin peers", err)
		}
	}
	return bin
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (w *labWorld) endpoints() string {
	var eps []string
	for _, h := range w.hosts {
		eps = append(eps, "http://"+h.Address().String()+":2379")
	}
	return strings.Join(eps, ",")
}

// startEtcd starts a member on each host and connects to them. A small disk is a
// file system of its own, which does not outlive a power cut.
func (w *labWorld) startEtcd(smallDisks bool) {
	w.t.Helper()
	var cluster []string
	for _, h := range w.hosts {
		cluster = append(cluster, fmt.Sprintf("%s=http://%s:2380", h.Name(), h.Address()))
	}
	for _, h := range w.hosts {
		url := "http://" + h.Address().String()
		requires := ""
		if smallDisks {
			requires = "RequiresMountsFor=/var/lib/etcd\n"
		}
		w.write(h, "/etc/systemd/system/var-lib-etcd.mount", "[Mount]\nWhat=tmpfs\nWhere=/var/lib/etcd\nType=tmpfs\nOptions=size=200M\n")
		w.write(h, "/etc/systemd/system/etcd.service", "[Unit]\n"+requires+"After=lab-network.service\nStartLimitIntervalSec=0\n[Service]\nType=notify\nRestart=always\nRestartSec=500ms\nTimeoutStartSec=infinity\nExecStart=/usr/local/bin/etcd --name "+h.Name()+
			" --data-dir /var/lib/etcd/data --log-level error --listen-client-urls "+url+":2379 --advertise-client-urls "+url+":2379 --listen-peer-urls "+url+":2380 --initial-advertise-peer-urls "+url+":2380 --initial-cluster "+strings.Join(cluster, ",")+
			"\n[Install]\nWantedBy=multi-user.target\n")
		w.sh(h, "systemctl daemon-reload && systemctl enable -q etcd && systemctl start --no-block etcd")
	}
	var eps []string
	for _, h := range w.hosts {
		eps = append(eps, "http://"+forward(w.t, w.lab, net.JoinHostPort(h.Address().String(), "2379")))
	}
	var err error
	if w.client, err = etcdlock.Dial(etcdlock.Config{Endpoints: eps}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.client.Close() })
	if w.etcd, err = clientv3.New(clientv3.Config{Endpoints: eps, DialTimeout: 5 * time.Second}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.etcd.Close() })
	testwait.For(w.t, "etcd to serve", 60*time.Second, func() error {
		ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
		defer cancel()
		return w.client.Check(ctx)
	})
}

// forward makes an address of the lab reachable on the machine's loopback.
func forward(t *testing.T, lab *hosts.Lab, to string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				out, err := lab.DialContext(ctx, "tcp", to)
				cancel()
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return ln.Addr().String()
}

// sh runs a script in a host.
func (w *labWorld) sh(h *labHost, script string) string {
	w.t.Helper()
	out, err := w.try(h, script)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *labWorld) try(h *labHost, script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	out, err := h.Exec(ctx, "bash", "-c", script)
	return strings.TrimSpace(out), err
}

func (w *labWorld) write(h *labHost, name, text string) {
	w.t.Helper()
	if err := h.WriteFile(w.t.Context(), name, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// shipped is the unit that podmaster ships with.
func shipped(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../../deploy/systemd/podmaster@.service")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// setUp makes the hosts run in a mode.
func (w *labWorld) setUp(m labMode) {
	w.t.Helper()
	if w.now == m && w.now.work != "" {
		return
	}
	for _, h := range w.hosts {
		w.sh(h, "systemctl stop "+podmaster+" 2>/dev/null; systemctl reset-failed; rm -rf /run/systemd/system/*.d /run/podmaster; true")
		_ = os.Remove(h.log)
	}
	for _, h := range w.hosts {
		spec := fmt.Sprintf("HACTL_FAULTS_WORK=%s,/shared/%s,%s", m.work, h.Name(), gateListen)
		conf := fmt.Sprintf("etcd-servers: %s\nkey: %s\nwhoami: %s\ngate: %s=%s\nstop-grace: 2s\nhistory: /shared/%s.history\n%s",
			w.endpoints(), key, h.Name(), gateListen, w.gateTo, h.Name(), m.conf)
		if m.unit {
			conf += "unit: " + workUnit + "\n"
		} else {
			conf += fmt.Sprintf("command: [env, %q, /usr/local/bin/work]\n", spec)
		}
		w.write(h, "/etc/hactl/podmaster/work.yaml", conf)
		// 20s: a frozen unit's ExecStopPost= is frozen, too, and holds its restart up for so long.
		w.write(h, "/etc/systemd/system/podmaster@.service", shipped(w.t)+"\n[Service]\nTimeoutStopSec=20s\n"+m.own)
		// Restart=always: that podmaster's drop-in keeps systemd from it is part of the test.
		w.write(h, "/etc/systemd/system/work.service", "[Service]\nExecStart=/usr/local/bin/work\nRestart=always\nRestartSec=10ms\nEnvironment=\""+spec+"\"\n"+m.more)
		w.sh(h, "systemctl daemon-reload && systemctl enable -q "+podmaster+" && systemctl start "+podmaster)
	}
	w.now = m
	w.holder()
	w.allThere()
	w.forget()
}

// holder waits until one host holds and its work has written in that term.
func (w *labWorld) holder() *labHost {
	w.t.Helper()
	var found *labHost
	testwait.For(w.t, "a working holder", 60*time.Second, func() error {
		info, err := w.info()
		if err != nil {
			return err
		}
		for _, h := range w.hosts {
			if h.Name() != info.Holder {
				continue
			}
			recs := readLog(w.t, h.log)
			if len(recs) == 0 || recs[len(recs)-1].token != info.Token {
				return fmt.Errorf("%s holds with token %d, and its work has not written", h.Name(), info.Token)
			}
			if age := (lease.Boottime{}).Now() - recs[len(recs)-1].at; age > 200*time.Millisecond {
				return fmt.Errorf("the work of %s last wrote %v ago", h.Name(), age)
			}
			found = h
			return nil
		}
		return fmt.Errorf("holder %q", info.Holder)
	})
	return found
}

func (w *labWorld) info() (etcdlock.Info, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return etcdlock.Get(ctx, w.client, key, false)
}

// allThere waits until one candidate holds and the others wait.
func (w *labWorld) allThere() {
	w.t.Helper()
	testwait.For(w.t, "all candidates to be there", 90*time.Second, func() error {
		info, err := w.info()
		if err != nil {
			return err
		}
		there := map[string]bool{info.Holder: true}
		for _, c := range info.Waiting {
			there[c.Name] = true
		}
		for _, h := range w.hosts {
			if !there[h.Name()] {
				return fmt.Errorf("%s neither holds nor waits", h.Name())
			}
		}
		return nil
	})
}

// pid is the process that works on h.
func (w *labWorld) pid(h *labHost) int {
	recs := readLog(w.t, h.log)
	if len(recs) == 0 {
		return 0
	}
	return recs[len(recs)-1].pid
}

// forget empties the logs and the sink.
func (w *labWorld) forget() {
	for _, h := range w.hosts {
		_ = os.Truncate(h.log, 0)
	}
	w.sink.forget()
}

func (w *labWorld) wait(d time.Duration) { <-time.After(d) }

// leader is the host whose etcd member leads.
func (w *labWorld) leader() *labHost {
	w.t.Helper()
	var found *labHost
	testwait.For(w.t, "etcd to have a leader", 60*time.Second, func() error {
		for i, ep := range w.etcd.Endpoints() {
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
			s, err := w.etcd.Status(ctx, ep)
			cancel()
			if err == nil && s.Leader == s.Header.MemberId {
				found = w.hosts[i]
				return nil
			}
		}
		return errors.New("nobody says so")
	})
	return found
}

// lead moves etcd's leadership to h.
func (w *labWorld) lead(h *labHost) {
	w.t.Helper()
	testwait.For(w.t, "etcd to be led by "+h.Name(), 60*time.Second, func() error {
		now := w.leader()
		if now == h {
			return nil
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		defer cancel()
		var to uint64
		list, err := w.etcd.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, m := range list.Members {
			if m.Name == h.Name() {
				to = m.ID
			}
		}
		for i, other := range w.hosts {
			if other == now {
				cl, err := clientv3.New(clientv3.Config{Endpoints: []string{w.etcd.Endpoints()[i]}, DialTimeout: 5 * time.Second})
				if err != nil {
					return err
				}
				defer cl.Close()
				if _, err := cl.MoveLeader(ctx, to); err != nil {
					return err
				}
			}
		}
		return fmt.Errorf("%s led", now.Name())
	})
}

// labFault is something that happens to the holder's host.
type labFault struct {
	name     string
	hit      func(w *labWorld, h *labHost)
	mend     func(w *labWorld, h *labHost)
	moves    bool // another host must hold afterwards
	renews   bool // another process must work afterwards
	onlySink bool
	within   time.Duration // with onlySink: how long two may work at once; 0: not judged
}

// suffer brings the world to order, lets the fault happen, and judges.
func (w *labWorld) suffer(f labFault, row *row) {
	w.t.Helper()
	w.allThere()
	h := w.holder()
	before := len(w.reigns())
	pid := w.pid(h)
	w.wait(time.Duration(w.rng.Int64N(int64(800 * time.Millisecond))))
	start := lease.Boottime{}.Now()
	f.hit(w, h)
	if f.moves {
		testwait.For(w.t, "another holder", 60*time.Second, func() error {
			if now := w.holder(); now == h {
				return fmt.Errorf("%s still holds", h.Name())
			}
			return nil
		})
	}
	if f.renews {
		testwait.For(w.t, "another process to work", 60*time.Second, func() error {
			if now := w.holder(); now == h && w.pid(h) == pid {
				return fmt.Errorf("only pid %d", pid)
			}
			return nil
		})
	}
	if f.mend != nil {
		f.mend(w, h)
	}
	w.holder()
	w.allThere()
	w.lock.judge(w.t)
	if longest := longestOverlap(w.reigns()); f.within > 0 && longest > f.within {
		w.t.Errorf("two worked at once for %v, more than %v", longest, f.within)
	}
	row.add(w.gap(start), len(w.reigns())-before, judge(w.t, w.reigns(), w.sink.arrivals(), f.onlySink))
	w.forget()
}

func (w *labWorld) reigns() []reign {
	logs := map[string]string{}
	for _, h := range w.hosts {
		logs[h.Name()] = h.log
	}
	return reignsIn(w.t, logs)
}

func (w *labWorld) gap(start time.Duration) time.Duration {
	var logs []string
	for _, h := range w.hosts {
		logs = append(logs, h.log)
	}
	return longestGap(w.t, logs, start)
}

// all lets each fault happen as often as is asked for.
func (w *labWorld) all(t *testing.T, table *table, prefix string, m labMode, faults []labFault) {
	t.Helper()
	w.t = t
	w.setUp(m)
	for _, f := range faults {
		ok := t.Run(f.name, func(t *testing.T) {
			w.t = t
			row := table.row(prefix + f.name)
			defer func() { row.done(t) }()
			for range repeats(t) {
				w.suffer(f, row)
			}
		})
		w.t = t
		if !ok { // what a failed one left must not be blamed on the next
			w.now = labMode{}
			if err := w.lab.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.setUp(m)
		}
	}
}

// tellAll logs what the hosts have to say.
func (w *labWorld) tellAll() {
	for _, h := range w.hosts {
		out, err := w.try(h, "systemctl status --no-pager -n0 "+podmaster+" "+workUnit+" etcd; journalctl --no-pager -o short-monotonic -u "+podmaster+" -u "+workUnit+" -u init.scope -n 80; ls -l /run/podmaster /run/systemd/system/*.d")
		w.root.Logf("%s: %v\n%s", h.Name(), err, out)
	}
}
