package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/testwait"
)

const mainEnv = "PODMASTER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" { // podmaster itself, or its guard
		main()
		return
	}
	etcdtest.Main()
	os.Exit(m.Run())
}

// cmd is a podmaster with its output.
type cmd struct {
	*exec.Cmd
	out bytes.Buffer
}

func podmasterCmd(args ...string) *cmd {
	c := &cmd{Cmd: exec.Command(os.Args[0], args...)}
	c.Env = append(os.Environ(), mainEnv+"=1")
	c.Stdout, c.Stderr = &c.out, &c.out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// exit waits for the end and returns the status.
func (c *cmd) exit(t *testing.T) int {
	t.Helper()
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode()
}

func startCmd(t *testing.T, args ...string) *cmd {
	t.Helper()
	c := podmasterCmd(args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		if t.Failed() {
			t.Logf("%v:\n%s", args, c.out.String())
		}
	})
	return c
}

func keys(t *testing.T, cl *clientv3.Client) []string {
	t.Helper()
	resp, err := cl.Get(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, kv := range resp.Kvs {
		out = append(out, string(kv.Key))
	}
	return out
}

func leaseCount(t *testing.T, cl *clientv3.Client) int {
	t.Helper()
	resp, err := cl.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.Leases)
}

// Every bad input is refused before a term is taken: nothing is started, and no
// key is left behind.
func TestBadInput(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	tlsCluster := etcdtest.Start(t, 1, etcdtest.Options{TLS: true})
	otherCA := etcdtest.Start(t, 1, etcdtest.Options{TLS: true}).TLSFiles().CA
	cl := cluster.Client()
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	started, installed := filepath.Join(dir, "started"), filepath.Join(dir, "d")
	etcd := "--etcd-servers=" + cluster.Endpoints()[0]
	command := []string{"--", "touch", started}
	with := func(args ...string) []string { return append(append([]string{etcd, "--key=bad"}, args...), command...) }
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing":               {nil, 2, "--etcd-servers: required"},
		"no key":                {append([]string{etcd}, command...), 2, "--key: required"},
		"bad key":               {append([]string{etcd, "--key=a/b"}, command...), 2, "want letters"},
		"all faults at once":    {[]string{"--ttl=1ms"}, 2, "--key: required"},
		"unknown flag":          {with("--no-such-flag"), 2, "no-such-flag"},
		"no work":               {[]string{etcd, "--key=bad"}, 2, "give one of"},
		"two kinds of work":     {with("--unit=x.service"), 2, "give one of"},
		"unit: no service":      {[]string{etcd, "--key=bad", "--unit=x.socket"}, 2, "want UNIT.service"},
		"unit: no systemd here": {[]string{etcd, "--key=bad", "--unit=x.service"}, 1, "--unit"},
		"bad duration":          {with("--ttl=soon"), 2, "ttl"},
		"short ttl":             {with("--ttl=500ms"), 2, "at least 1s"},
		"short ttl, by flag":    {with("--ttl=10ms"), 2, "--ttl 10ms: at least 1s"},
		"ttl without a unit":    {with("--ttl", "3"), 2, `--ttl "3": want a duration such as 3s`},
		"ttl 0":                 {with("--ttl-secs=0"), 2, "positive"},
		"ttl twice":             {with("--ttl=3s", "--ttl-secs=3"), 2, "give one"},
		"ttl against stopping":  {with("--ttl=2s", "--stop-time=1500ms"), 2, "cannot hold"},
		"prefer before":         {with("--prefer-after=-1s"), 2, "--prefer-after"},
		"wait before":           {with("--wait=-1s"), 2, "--wait: must not be negative"},
		"bad name":              {with("--whoami=a b"), 2, "whoami"},
		"history: unwritable":   {with("--history=/proc/none/h"), 2, "history"},
		"bad gate":              {with("--gate=nowhere"), 2, "LISTEN=TARGET"},
		"gate in use":           {with("--gate=" + busy.Addr().String() + "=127.0.0.1:1"), 1, "address already in use"},
		"metrics in use":        {with("--listen-metrics=" + busy.Addr().String()), 1, "address already in use"},
		"bad health URL":        {with("--health-url=localhost"), 2, "health URL"},
		"insecure health":       {with("--health-url=https://192.0.2.1/", "--health-insecure"), 2, "loopback"},
		"health without URL":    {with("--health-insecure"), 2, "--health-url"},
		"health: settings only": {with("--health-every=2s", "--health-timeout=2s", "--health-fails=2", "--health-grace=2s"), 2, "--health-grace: needs --health-url"},
		"health-every 0":        {with("--health-url=http://127.0.0.1:1/", "--health-every=0s"), 2, "--health-every: must be positive"},
		"health-timeout 0":      {with("--health-url=http://127.0.0.1:1/", "--health-timeout=0s"), 2, "--health-timeout: must be positive"},
		"health-fails 0":        {with("--health-url=http://127.0.0.1:1/", "--health-fails=0"), 2, "--health-fails: must be positive"},
		"health-grace 0":        {with("--health-url=http://127.0.0.1:1/", "--health-grace=0s"), 2, "--health-grace: must be positive"},
		"renew-every 0":         {with("--renew-every=0s"), 2, "--renew-every: must be positive"},
		"renew-every too rare":  {with("--renew-every=1s"), 2, "--ttl 3s cannot hold: stop time 500ms and 3 renewals every 1s"},
		"stop-time 0":           {with("--stop-time=0s"), 2, "--stop-time: must be positive"},
		"max-skew 0":            {with("--max-skew=0"), 2, "--max-skew: must be positive"},
		"max-skew: absurd":      {with("--max-skew=0.7"), 2, "--max-skew 0.7: between"},
		"stop-grace 0":          {with("--stop-grace=0s"), 2, "--stop-grace: must be positive"},
		"priority: no number":   {with("--priority=high"), 2, `--priority "high": want a number`},
		"no config":             {with("--config=" + filepath.Join(dir, "none")), 2, "no such file"},
		"config: no such field": {with("--config=" + file("f.yaml", "ttl: 3s\nttll: 4s\n")), 2, "f.yaml:2: ttll"},
		"config: twice":         {with("--config=" + file("g.yaml", "ttl: 3s\nttl: 4s\n")), 2, "ttl"},
		"config: bad value":     {with("--config=" + file("h.yaml", "ttl: soon\n")), 2, "h.yaml:1: ttl"},
		"config: no mapping":    {with("--config=" + file("i.yaml", "- a\n")), 2, "mapping"},
		"config: no YAML":       {with("--config=" + file("j.yaml", "{")), 2, "j.yaml"},
		"manifest: half":        {[]string{etcd, "--key=bad", "--source-file=/etc/hostname"}, 2, "give both"},
		"manifest: no source":   {[]string{etcd, "--key=bad", "--source-file=" + filepath.Join(dir, "none"), "--dest-file=" + installed}, 1, "no such file"},
		"manifest: unwritable":  {[]string{etcd, "--key=bad", "--source-file=" + file("m.yaml", "x"), "--dest-file=/proc/d"}, 1, "destination"},
		"manifest: oneshot":     {[]string{etcd, "--key=bad", "--oneshot", "--source-file=" + file("m.yaml", "x"), "--dest-file=" + installed}, 2, "for commands"},
		"manifest: same file":   {[]string{etcd, "--key=bad", "--source-file=" + file("m.yaml", "x"), "--dest-file=" + file("m.yaml", "x")}, 1, "same file"},
		"kubelet: no manifest":  {with("--kubelet-url=https://127.0.0.1:10250"), 2, "is for --source-file"},
		"kubelet: no pod":       {[]string{etcd, "--key=bad", "--kubelet-url=https://127.0.0.1:10250", "--source-file=" + file("svc.yaml", "kind: Service"), "--dest-file=" + installed}, 2, "no Pod"},
		"kubelet: not verified": {[]string{etcd, "--key=bad", "--kubelet-url=https://192.0.2.1:10250", "--kubelet-insecure", "--source-file=" + file("m.yaml", "x"), "--dest-file=" + installed}, 2, "loopback"},
		"empty name":            {with("--whoami="), 2, "--whoami: empty"},
		"gate: no target":       {with("--gate=127.0.0.1:0=nowhere"), 1, "gate target"},
		"metrics to the world":  {with("--listen-metrics=0.0.0.0:9450"), 2, "loopback"},
		"command: no program":   {[]string{etcd, "--key=bad", "--", dir}, 1, "is a directory"},
		"command not found":     {[]string{etcd, "--key=bad", "--", "no-such-program-here"}, 1, "not found"},
		"etcd: no URL":          {append([]string{"--etcd-servers=ftp://127.0.0.1", "--key=bad"}, command...), 2, "scheme"},
		"etcd: nobody there":    {append([]string{"--etcd-servers=http://127.0.0.1:1", "--key=bad", "--start-timeout=1s"}, command...), 5, "refused"},
		"etcd: told at once":    {append([]string{"--etcd-servers=http://127.0.0.1:1", "--key=bad", "--start-timeout=1s"}, command...), 5, "does not answer yet\" unit=bad"},
		"etcd: refuses plain":   {append([]string{"--etcd-servers=http://" + strings.TrimPrefix(tlsCluster.Endpoints()[0], "https://"), "--key=bad", "--start-timeout=2s"}, command...), 5, "etcd cannot be used"},
		"etcd: unknown CA":      {append([]string{"--etcd-servers=" + tlsCluster.Endpoints()[0], "--key=bad"}, command...), 5, "certificate"},
		"etcd: wrong CA":        {append([]string{"--etcd-servers=" + tlsCluster.Endpoints()[0], "--key=bad", "--etcd-cafile=" + otherCA}, command...), 5, "certificate"},
		"etcd: no certificate":  {append([]string{"--etcd-servers=" + tlsCluster.Endpoints()[0], "--key=bad", "--start-timeout=2s", "--etcd-cafile=" + tlsCluster.TLSFiles().CA}, command...), 5, "certificate"},
		"etcd: is not TLS":      {append([]string{"--etcd-servers=https://" + strings.TrimPrefix(cluster.Endpoints()[0], "http://"), "--key=bad", "--start-timeout=1s"}, command...), 5, "handshake"},
		"etcd: no CA file":      {with("--etcd-cafile=" + filepath.Join(dir, "none")), 2, "no such file"},
		"etcd: empty CA file":   {with("--etcd-cafile=" + file("ca", "x")), 2, "no certificate"},
		"etcd: half a pair":     {with("--etcd-certfile=" + file("crt", "x")), 2, "both or neither"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCmd(t, tc.args...)
			if code := c.exit(t); code != tc.code || !strings.Contains(c.out.String(), tc.want) {
				t.Errorf("%v: code %d, want %d and %q:\n%s", tc.args, code, tc.code, tc.want, c.out.String())
			}
		})
	}
	name := startCmd(t, with("--whoami=a/b")...)
	if code := name.exit(t); code != 2 || strings.Contains(name.out.String(), "holder") {
		t.Errorf("one fault, told twice: code %d:\n%s", code, name.out.String())
	}
	if _, err := os.Stat(started); err == nil {
		t.Error("the command was started")
	}
	if _, err := os.Stat(installed); err == nil {
		t.Error("the manifest was installed")
	}
	for _, cl := range []*clientv3.Client{cl, tlsCluster.Client()} {
		if left := keys(t, cl); len(left) > 0 {
			t.Errorf("keys left behind: %q", left)
		}
	}
}

func waitHolder(t *testing.T, cluster *etcdtest.Cluster, key, holder string) etcdlock.Info {
	t.Helper()
	return waitHolderFor(t, cluster, key, holder, 20*time.Second)
}

func waitHolderFor(t *testing.T, cluster *etcdtest.Cluster, key, holder string, limit time.Duration) etcdlock.Info {
	t.Helper()
	c, err := etcdlock.Dial(etcdlock.Config{Endpoints: cluster.Endpoints(), TLS: cluster.TLS()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var info etcdlock.Info
	testwait.For(t, fmt.Sprintf("%q to hold %s", holder, key), limit, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		var err error
		if info, err = etcdlock.Get(ctx, c, key, false); err != nil {
			return err
		}
		if info.Holder != holder {
			return fmt.Errorf("it is %q", info.Holder)
		}
		return nil
	})
	return info
}

func TestLife(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	etcd := "--etcd-servers=" + cluster.Endpoints()[0]
	metrics, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := metrics.Addr().String()
	_ = metrics.Close()
	first := startCmd(t, etcd, "--key=life", "--whoami=m1", "--address=10.0.0.1", "--listen-metrics="+addr, "--", "sleep", "1000")
	one := waitHolder(t, cluster, "life", "m1")
	if one.Address != "10.0.0.1" || one.TTL != 3*time.Second {
		t.Errorf("listed as %+v", one)
	}
	// The same name a second time on this host is refused at once, with where the first is.
	// Nothing is started for it, and neither a key nor an etcd lease stays.
	started := filepath.Join(t.TempDir(), "started")
	before, leases := keys(t, cluster.Client()), leaseCount(t, cluster.Client())
	twin := startCmd(t, etcd, "--key=life", "--whoami=m1", "--", "touch", started)
	if code := twin.exit(t); code != 3 || !strings.Contains(twin.out.String(), "10.0.0.1") {
		t.Errorf("twin: code %d:\n%s", code, twin.out.String())
	}
	if _, err := os.Stat(started); err == nil {
		t.Error("twin: the command was started")
	}
	if after := keys(t, cluster.Client()); !slices.Equal(before, after) {
		t.Errorf("twin: keys %q, before %q", after, before)
	}
	if after := leaseCount(t, cluster.Client()); after != leases {
		t.Errorf("twin: %d etcd leases, before %d", after, leases)
	}
	out, err := exec.Command("curl", "-sf", "http://"+addr+"/metrics").Output()
	if err != nil || !bytes.Contains(out, []byte("hactl_lease_holding 1")) {
		t.Errorf("metrics: %v\n%s", err, out)
	}
	second := startCmd(t, etcd, "--key=life", "--whoami=m2", "--", "sleep", "1000")
	testwait.For(t, "m2 to wait", 20*time.Second, func() error {
		if info := waitHolder(t, cluster, "life", "m1"); len(info.Waiting) != 1 || info.Waiting[0].Name != "m2" {
			return fmt.Errorf("%+v", info.Waiting)
		}
		return nil
	})
	_ = first.Process.Signal(syscall.SIGTERM)
	if code := first.exit(t); code != 0 {
		t.Errorf("stopped: code %d", code)
	}
	two := waitHolder(t, cluster, "life", "m2")
	if two.Token <= one.Token {
		t.Errorf("token %d after %d", two.Token, one.Token)
	}
	// Killed, the guard releases for it; and its name is free at once.
	_ = second.Process.Kill()
	_ = second.Wait()
	third := startCmd(t, etcd, "--key=life", "--whoami=m2", "--", "sleep", "1000")
	testwait.For(t, "a new term of m2", 20*time.Second, func() error {
		if three := waitHolder(t, cluster, "life", "m2"); three.Token <= two.Token {
			return fmt.Errorf("token %d after %d", three.Token, two.Token)
		}
		return nil
	})
	_ = third.Process.Signal(syscall.SIGTERM)
	if code := third.exit(t); code != 0 {
		t.Errorf("stopped: code %d", code)
	}
	if info := waitHolder(t, cluster, "life", ""); info.Last != "m2" || info.Ended != "stopped" || len(info.Waiting) != 0 {
		t.Errorf("at the end: %+v", info)
	}
}

// A preferred candidate gets the term by a hand-over, with a key of the user's own as
// well as with a name; and not before --prefer-after.
func TestPriority(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	etcd := "--etcd-servers=" + cluster.Endpoints()[0]
	for _, key := range []string{"prefer", "/my/own/lock"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			low := startCmd(t, etcd, "--key="+key, "--whoami=m1", "--priority=1", "--prefer-after=1s", "--", "sleep", "1000")
			one := waitHolder(t, cluster, key, "m1")
			// It would not hand over to m1 in an hour, preferred or not.
			high := startCmd(t, etcd, "--key="+key, "--whoami=m2", "--priority=2", "--prefer-after=1h", "--", "sleep", "1000")
			two := waitHolderFor(t, cluster, key, "m2", time.Minute)
			if two.Token <= one.Token {
				t.Errorf("token %d after %d", two.Token, one.Token)
			}
			if len(two.Waiting) != 1 || two.Waiting[0].Name != "m1" || two.Waiting[0].Priority != 1 {
				t.Errorf("waiting: %+v", two.Waiting)
			}
			_ = high.Process.Signal(syscall.SIGTERM)
			high.exit(t)
			waitHolder(t, cluster, key, "m1")
			_ = low.Process.Signal(syscall.SIGTERM)
			low.exit(t)
			if !strings.Contains(low.out.String(), "a preferred candidate waits") {
				t.Error("m2 did not get it by preference")
			}
		})
	}
}

// Over client certificates, whose files are read anew: with a pair of another CA in
// them the next connection is refused, and the work stops; with the right one in them
// again it goes on, without a restart.
func TestClientCertificates(t *testing.T) {
	cluster := etcdtest.StartProcesses(t, 1, etcdtest.Options{TLS: true})
	other := etcdtest.Start(t, 1, etcdtest.Options{TLS: true}).TLSFiles()
	dir := t.TempDir()
	crt, key, pid := filepath.Join(dir, "crt"), filepath.Join(dir, "key"), filepath.Join(dir, "pid")
	use := func(f etcdtest.Files) {
		t.Helper()
		for dst, src := range map[string]string{crt: f.Cert, key: f.Key} {
			data, err := os.ReadFile(src)
			if err == nil {
				err = atomicfile.Write(dst, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	runs := func(want bool) {
		t.Helper()
		testwait.For(t, fmt.Sprintf("the work to run: %v", want), time.Minute, func() error {
			n, err := os.ReadFile(pid)
			if err != nil {
				return err
			}
			if _, err := os.Stat("/proc/" + string(bytes.TrimSpace(n))); (err == nil) != want {
				return fmt.Errorf("pid %s: %w", n, err)
			}
			return nil
		})
	}
	reconnect := func() {
		t.Helper()
		cluster.Members[0].Kill()
		cluster.Members[0].Restart()
		cluster.Members[0].WaitServing()
	}
	use(cluster.TLSFiles())
	// Time to stop also where this machine is busy: a work that is late ends podmaster.
	c := startCmd(t, "--etcd-servers="+cluster.Endpoints()[0], "--etcd-cafile="+cluster.TLSFiles().CA, "--etcd-certfile="+crt, "--etcd-keyfile="+key,
		"--key=tls", "--whoami=m1", "--ttl=6s", "--stop-time=3s", "--", "sh", "-c", "echo $$ >"+pid+"; exec sleep 1000")
	runs(true)
	one := waitHolder(t, cluster, "tls", "m1")
	use(other)
	reconnect()
	runs(false)
	use(cluster.TLSFiles())
	runs(true)
	if two := waitHolder(t, cluster, "tls", "m1"); two.Token <= one.Token {
		t.Errorf("token %d after %d: it was never refused", two.Token, one.Token)
	}
	// Killed, its guard releases, over the same certificates.
	_ = c.Process.Kill()
	_ = c.Wait()
	if info := waitHolder(t, cluster, "tls", ""); info.Ended != "podmaster died" {
		t.Errorf("%+v", info)
	}
}

func TestOneShotPassesTheStatusOn(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	for script, want := range map[string]int{"echo hello; exit 0": 0, "exit 7": 7, "kill -KILL $$": 137} {
		c := startCmd(t, "--etcd-servers="+cluster.Endpoints()[0], "--key=once", "--oneshot", "--", "sh", "-c", script)
		if code := c.exit(t); code != want {
			t.Errorf("%s: code %d, want %d", script, code, want)
		}
		if want == 0 && !strings.Contains(c.out.String(), "hello\n") {
			t.Errorf("stdout is lost: %s", c.out.String())
		}
	}
}

// A job that podmaster's stop ended half-way was not done: its own status says so. Nor
// was one that never began.
func TestStoppedOneShotPassesTheStatusOn(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	etcd := "--etcd-servers=" + cluster.Endpoints()[0]
	for name, tc := range map[string]struct {
		script string
		want   int
	}{
		"ends of the signal":     {"echo >$OUT; exec sleep 1000", 143},
		"ignores it":             {"trap '' TERM; echo >$OUT; while :; do sleep 0.02; done", 137},
		"has its own failure":    {"trap 'exit 5' TERM; echo >$OUT; while :; do sleep 0.02; done", 5},
		"ends well all the same": {"trap 'exit 0' TERM; echo >$OUT; while :; do sleep 0.02; done", 0},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			t.Setenv("OUT", out)
			c := startCmd(t, etcd, "--key=half", "--whoami=m1", "--oneshot", "--stop-grace=200ms", "--", "sh", "-c", tc.script)
			testwait.For(t, "the command", 20*time.Second, func() error { _, err := os.Stat(out); return err })
			_ = c.Process.Signal(syscall.SIGTERM)
			if code := c.exit(t); code != tc.want {
				t.Errorf("code %d, want %d", code, tc.want)
			}
			if info := waitHolder(t, cluster, "half", ""); info.Ended != "stopped" {
				t.Errorf("not released: %+v", info)
			}
		})
	}
	holder := startCmd(t, etcd, "--key=half", "--whoami=m1", "--", "sleep", "1000")
	waitHolder(t, cluster, "half", "m1")
	c := startCmd(t, etcd, "--key=half", "--whoami=m2", "--oneshot", "--", "true")
	testwait.For(t, "m2 to wait", 20*time.Second, func() error {
		if info := waitHolder(t, cluster, "half", "m1"); len(info.Waiting) != 1 {
			return fmt.Errorf("%+v", info.Waiting)
		}
		return nil
	})
	_ = c.Process.Signal(syscall.SIGTERM)
	if code := c.exit(t); code != 1 || !strings.Contains(c.out.String(), "stopped before the command") {
		t.Errorf("stopped while it waited: code %d", code)
	}
	_ = holder.Process.Signal(syscall.SIGTERM)
	holder.exit(t)
}

// A cron job on every host is run by one of them: the others give up, and run nothing.
func TestWaitGivesUp(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	ran := filepath.Join(t.TempDir(), "ran")
	etcd := "--etcd-servers=" + cluster.Endpoints()[0]
	first := startCmd(t, etcd, "--key=cron", "--whoami=m1", "--wait=0s", "--", "sleep", "1000")
	waitHolder(t, cluster, "cron", "m1")
	for _, wait := range []string{"0s", "1s"} {
		c := startCmd(t, etcd, "--key=cron", "--whoami=m2", "--oneshot", "--wait="+wait, "--", "touch", ran)
		if code := c.exit(t); code != 6 || !strings.Contains(c.out.String(), "m1 at ") {
			t.Errorf("--wait=%s: code %d:\n%s", wait, code, c.out.String())
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the command was started")
	}
	info := waitHolder(t, cluster, "cron", "m1")
	if len(info.Waiting) > 0 {
		t.Errorf("left behind: %+v", info.Waiting)
	}
	_ = first.Process.Signal(syscall.SIGTERM)
	first.exit(t)
	c := startCmd(t, etcd, "--key=cron", "--whoami=m2", "--oneshot", "--wait=0s", "--", "touch", ran)
	if code := c.exit(t); code != 0 {
		t.Errorf("free: code %d:\n%s", code, c.out.String())
	}
	if _, err := os.Stat(ran); err != nil {
		t.Error(err)
	}
}

// A URL that says no, with times of the user's own: three probes in a row would have
// taken 30 s of grace first. The command ignores the SIGTERM of its restart, and is
// killed after a --stop-grace of the user's own, before it says goodbye.
func TestUnhealthyAndStopGrace(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	var probes atomic.Int32
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		probes.Add(1)
		http.Error(w, "not well", http.StatusInternalServerError)
	}))
	defer sick.Close()
	out := filepath.Join(t.TempDir(), "out")
	script := `trap 'sleep 8; echo bye >>` + out + `; exit' TERM; echo start >>` + out + `; while :; do sleep 0.02; done`
	c := startCmd(t, "--etcd-servers="+cluster.Endpoints()[0], "--key=sick", "--whoami=m1", "--stop-grace=50ms",
		"--health-url="+sick.URL, "--health-every=20ms", "--health-timeout=5s", "--health-fails=2", "--health-grace=1ms",
		"--", "sh", "-c", script)
	testwait.For(t, "three starts", 20*time.Second, func() error {
		got, err := os.ReadFile(out)
		if strings.Count(string(got), "start\n") < 3 {
			return fmt.Errorf("%q: %w", got, err)
		}
		return nil
	})
	_ = c.Process.Signal(syscall.SIGTERM)
	if code := c.exit(t); code != 0 {
		t.Errorf("code %d", code)
	}
	if got, err := os.ReadFile(out); err != nil || strings.Contains(string(got), "bye") {
		t.Errorf("it had the default's grace: %q, %v", got, err)
	}
	if n := probes.Load(); n < 4 || !strings.Contains(c.out.String(), "2 probes in a row: 500") {
		t.Errorf("%d probes:\n%s", n, c.out.String())
	}
}

// A holder renews each --renew-every; a wide --max-skew is taken.
func TestTimesOfTheUsersOwn(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	hist := filepath.Join(t.TempDir(), "history")
	c := startCmd(t, "--etcd-servers="+cluster.Endpoints()[0], "--key=times", "--whoami=m1", "--history="+hist,
		"--ttl=20s", "--renew-every=20ms", "--max-skew=0.2", "--", "sleep", "1000")
	// At the default, 2/15 of the TTL, ten renewals would take 27 s.
	testwait.For(t, "ten renewals", 20*time.Second, func() error {
		got, err := os.ReadFile(hist)
		if n := strings.Count(string(got), "renew"); n < 10 {
			return fmt.Errorf("%d: %w", n, err)
		}
		return nil
	})
	_ = c.Process.Signal(syscall.SIGTERM)
	c.exit(t)
}

// Without a terminal, too, the command has podmaster's own three descriptors.
func TestStandardStreamsArePassedOn(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	c := podmasterCmd("--etcd-servers="+cluster.Endpoints()[0], "--key=streams", "--oneshot", "--log-level=error", "--", "sh", "-c", "cat; echo err >&2")
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader("typed\n"), &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if stdout.String() != "typed\n" || stderr.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

// Why a candidate that works nowhere lets go is told in its log and in the list.
func TestCrashesAreTold(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	c := startCmd(t, "--etcd-servers="+cluster.Endpoints()[0], "--key=crash", "--whoami=m1", "--crash-budget=1", "--", "sh", "-c", "exit 3")
	const want = "crashed: 2 ends within 1m0s, the last one: exit status 3"
	testwait.For(t, "the hand-over", 20*time.Second, func() error {
		if info := waitHolder(t, cluster, "crash", ""); info.Last != "m1" || info.Ended != want {
			return fmt.Errorf("%+v", info)
		}
		return nil
	})
	_ = c.Process.Signal(syscall.SIGTERM)
	c.exit(t)
	if out := c.out.String(); !strings.Contains(out, "crash budget is used up") || !strings.Contains(out, `how="exit status 3" ends=2 within=1m0s`) {
		t.Error("not in the log")
	}
}

// One that was frozen until another one had the lock neither starts its program again
// nor releases anything, and does not say so.
func TestThawedHolderSaysWhatIsTrue(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	etcd := "--etcd-servers=" + cluster.Endpoints()[0]
	file := filepath.Join(t.TempDir(), "log")
	log, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	first := podmasterCmd(etcd, "--key=thaw", "--whoami=m1", "--", "sleep", "1000")
	first.Stdout, first.Stderr = log, log
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = first.Process.Kill()
		_ = first.Wait()
	}()
	waitHolder(t, cluster, "thaw", "m1")
	startCmd(t, etcd, "--key=thaw", "--whoami=m2", "--", "sleep", "1000")
	_ = first.Process.Signal(syscall.SIGSTOP)
	waitHolder(t, cluster, "thaw", "m2")
	_ = first.Process.Signal(syscall.SIGCONT)
	var said string
	testwait.For(t, "m1 to wait", 20*time.Second, func() error {
		data, err := os.ReadFile(file)
		if said = string(data); !strings.Contains(said, "waiting: another one holds the lock") {
			return fmt.Errorf("%q: %w", said, err)
		}
		return nil
	})
	if strings.Contains(said, "is restarted") || strings.Contains(said, "the lock is released") || !strings.Contains(said, "holder=m2") {
		t.Errorf("m1 says:\n%s", said)
	}
}

func TestLostLeaseExitCode(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.WriteFile(src, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, work := range map[string][]string{
		"command":                           {"--", "sleep", "1000"},
		"manifest, nobody confirms its end": {"--source-file=" + src, "--dest-file=" + filepath.Join(dir, "dst")},
	} {
		t.Run(name, func(t *testing.T) {
			key := fmt.Sprintf("lost%d", len(work))
			c := startCmd(t, append([]string{"--etcd-servers=" + cluster.Endpoints()[0], "--key=" + key, "--whoami=m1", "--retry=false"}, work...)...)
			waitHolder(t, cluster, key, "m1")
			if _, err := cluster.Client().Delete(t.Context(), etcdlock.Root+key+"/term"); err != nil {
				t.Fatal(err)
			}
			if code := c.exit(t); code != 10 {
				t.Errorf("code %d, want 10", code)
			}
		})
	}
}

func TestConfigFile(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := fmt.Sprintf("etcd-servers: [%s]\nkey: conf\nwhoami: from-file\noneshot: true\ncommand: [sh, -c, 'echo I am $PODMASTER_HOLDER']\n", cluster.Endpoints()[0])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		env  string
		want string
	}{
		{nil, "", "I am from-file"},
		{nil, "PODMASTER_WHOAMI=from-env", "I am from-env"},
		{[]string{"--whoami=from-flag"}, "PODMASTER_WHOAMI=from-env", "I am from-flag"},
	} {
		c := podmasterCmd(append([]string{"--config", file}, tc.args...)...)
		c.Env = append(c.Env, tc.env)
		if err := c.Run(); err != nil || !strings.Contains(c.out.String(), tc.want) {
			t.Errorf("%v %s: %v\n%s", tc.args, tc.env, err, c.out.String())
		}
	}
}

// The first podmaster's command line, as its users have it in their manifests.
func TestTheFirstPodmastersFlags(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src.manifest"), filepath.Join(dir, "dst.manifest")
	if err := os.WriteFile(src, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCmd(t, "--etcd-servers="+cluster.Endpoints()[0], "--key=scheduler", "--source-file="+src, "--dest-file="+dst,
		"--whoami=m1", "--ttl-secs=4", "--sleep=20ms", "--v=2", "--logtostderr", "--log_flush_frequency=5s")
	installed := func(want string) {
		t.Helper()
		testwait.For(t, "the manifest to hold "+want, 20*time.Second, func() error {
			if got, err := os.ReadFile(dst); string(got) != want {
				return fmt.Errorf("%q: %w", got, err)
			}
			return nil
		})
	}
	installed("one")
	if info := waitHolder(t, cluster, "scheduler", "m1"); info.TTL != 4*time.Second {
		t.Errorf("ttl %v", info.TTL)
	}
	if err := os.WriteFile(src, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	installed("two")
	_ = c.Process.Signal(syscall.SIGTERM)
	c.exit(t)
	if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Error("the manifest is left behind")
	}
	// Without a health URL nobody can say that the pod has stopped: it stays held
	// until its term, and the lock delay, have passed.
	if info := waitHolder(t, cluster, "scheduler", "m1"); info.Last != "" {
		t.Errorf("released: %+v", info)
	}
}

// What podmaster is sent goes to the command: a reload, a new log file, a dump.
func TestSignalsAreForwarded(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	out := filepath.Join(t.TempDir(), "out")
	script := `exec >` + out + `; for s in HUP USR1 USR2 QUIT WINCH; do trap "echo $s" $s; done; echo ready; while :; do sleep 0.02; done`
	c := startCmd(t, "--etcd-servers="+cluster.Endpoints()[0], "--key=signals", "--whoami=m1", "--", "sh", "-c", script)
	expect := func(want string) {
		t.Helper()
		testwait.For(t, "the command to say "+want, 20*time.Second, func() error {
			if got, err := os.ReadFile(out); !strings.HasSuffix(string(got), want+"\n") {
				return fmt.Errorf("%q: %w", got, err)
			}
			return nil
		})
	}
	expect("ready")
	for _, s := range []struct {
		sig  syscall.Signal
		name string
	}{{syscall.SIGHUP, "HUP"}, {syscall.SIGUSR1, "USR1"}, {syscall.SIGUSR2, "USR2"}, {syscall.SIGQUIT, "QUIT"}, {syscall.SIGWINCH, "WINCH"}} {
		if err := c.Process.Signal(s.sig); err != nil {
			t.Fatal(err)
		}
		expect(s.name)
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	if code := c.exit(t); code != 0 {
		t.Errorf("code %d", code)
	}
}
