package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/pki"
)

func portOn(t *testing.T, addr net.Addr) config.Port {
	t.Helper()
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return config.Port{Address: "127.0.0.1", Port: int(ap.Port()), User: "the test"}
}

// use tries one real port and finds its holder.
func use(t *testing.T, network string, p config.Port) PortUse {
	t.Helper()
	u := PortUse{Port: p, Net: network}
	if u.Taken, u.Err = tryPort(network, p); u.Err != nil {
		t.Fatal(u.Err)
	}
	if u.Taken {
		u.Holder = holder(t.Context(), u, boundSockets(), sockets())
	}
	return u
}

func TestARealTakenPort(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		u := use(t, "tcp", portOn(t, l.Addr()))
		if !u.Taken || u.Holder.PID != os.Getpid() || u.Holder.Name != filepath.Base(self) {
			t.Errorf("%s: %+v, want taken by this test (pid %d)", listen, u, os.Getpid())
		}
		if other := use(t, "udp", u.Port); other.Taken {
			t.Errorf("%s: UDP counts as taken too", listen)
		}
		l.Close()
		if u = use(t, "tcp", u.Port); u.Taken {
			t.Errorf("%s: still taken after closing: %+v", listen, u)
		}
	}
}

func TestARealTakenUDPPort(t *testing.T) {
	// On an address of its own: connections from 127.0.0.1 take ports by chance.
	c, err := net.ListenPacket("udp", fmt.Sprintf("127.91.%d.%d:0", os.Getpid()>>8&255, os.Getpid()&255))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := portOn(t, c.LocalAddr())
	p.Address, _, _ = net.SplitHostPort(c.LocalAddr().String())
	if u := use(t, "udp", p); !u.Taken || u.Holder.PID != os.Getpid() {
		t.Errorf("%+v, want taken by this test", u)
	}
	if u := use(t, "tcp", p); u.Taken {
		t.Errorf("TCP counts as taken too: %+v", u)
	}
}

// A server that was stopped leaves connections behind, which must not count.
func TestAPortWithOldConnectionsIsFree(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server.Close() // first: its side is the one that lingers
	l.Close()
	if u := use(t, "tcp", portOn(t, l.Addr())); u.Taken {
		t.Errorf("taken: %+v", u)
	}
}

func TestAnAddressThatIsNotHereIsNoFaultOfThePort(t *testing.T) {
	if taken, err := tryPort("tcp", config.Port{Address: "192.0.2.200", Port: 6443}); taken || err != nil {
		t.Errorf("taken %v, %v", taken, err)
	}
	if taken, err := tryPort("tcp", config.Port{Address: "2001:db8::1", Port: 6443}); taken || err != nil {
		t.Errorf("IPv6: taken %v, %v", taken, err)
	}
}

func TestGossipIsTriedWithBoth(t *testing.T) {
	c := config.Default()
	m := config.Master{Name: "m1", Address: "127.0.0.1"}
	got := map[string][]string{}
	for _, p := range c.Ports(m) {
		got[p.User] = networks(p)
	}
	if g := got["gossip"]; !slices.Equal(g, []string{"tcp", "udp"}) {
		t.Errorf("gossip is tried with %v", g)
	}
	if g := got["kube-apiserver"]; !slices.Equal(g, []string{"tcp"}) {
		t.Errorf("the API server is tried with %v", g)
	}
}

func TestParseSockets(t *testing.T) {
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B01F50A:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1
   2: nonsense
   3: 0000000000000000FFFF00000100007F:1F91 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4713 1
`
	want := []bound{{"tcp", netip.MustParseAddrPort("10.245.1.11:6443"), "4711"}, {"tcp", netip.MustParseAddrPort("127.0.0.1:8081"), "4713"}}
	if got := parseSockets("tcp", []byte(tcp)); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestUnitOf(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/hactl-etcd.service\n":                                                      "hactl-etcd.service",
		"12:cpu:/x.service\n1:name=systemd:/system.slice/kubelet.service\n0::/\n":                    "kubelet.service",
		"0::/lab/m1/system.slice/system-podmaster.slice/podmaster@kube-scheduler.service\n":          "podmaster@kube-scheduler.service",
		"0::/user.slice/user-0.slice/session-1.scope\n":                                              "session-1.scope",
		"0::/kubepods/burstable/pod1/abc\n":                                                          "",
		"0::/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:0123456\n": "containerd.service",
		"": "",
	} {
		if got := unitOf(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestRealFsync(t *testing.T) {
	dir := t.TempDir()
	f := measureFsync(t.Context(), filepath.Join(dir, "not", "yet", "there"), 20, time.Minute)
	if f.Err != nil || f.Dir != dir || f.Writes != 20 || f.P99 <= 0 || f.Max < f.P99 {
		t.Errorf("%+v", f)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if f := measureFsync(t.Context(), dir, 1000000, time.Nanosecond); f.Err != nil || f.Writes != 1 {
		t.Errorf("out of time: %+v, want one write", f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f := measureFsync(ctx, dir, 20, time.Minute); !errors.Is(f.Err, context.Canceled) {
		t.Errorf("cancelled: %+v", f)
	}
}

func TestPercentile(t *testing.T) {
	var took []time.Duration
	for i := range 200 {
		took = append(took, time.Duration(200-i))
	}
	if p99, longest := percentile99(took); p99 != 198 || longest != 200 {
		t.Errorf("p99 %d, longest %d", p99, longest)
	}
	if p99, longest := percentile99(took[:1]); p99 != 200 || longest != 200 {
		t.Errorf("of one: p99 %d, longest %d", p99, longest)
	}
}

func TestVolumesAreCountedOnce(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	c := config.Default()
	c.Etcd.Quota = 100 << 20
	vs := lookVolumes(l, c)
	if len(vs) != 1 || vs[0].Err != nil || len(vs[0].Paths) != 2 || vs[0].Free == 0 {
		t.Fatalf("%+v", vs)
	}
	if want := uint64(200<<20 + walNeed + logsNeed); vs[0].Need != want {
		t.Errorf("need %d, want %d", vs[0].Need, want)
	}
	if err := os.MkdirAll(filepath.Join(l.EtcdData(), "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.EtcdData(), "member", "db"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if vs = lookVolumes(l, c); vs[0].Own < 1<<20 {
		t.Errorf("a database of 1 MiB counts as %d bytes", vs[0].Own)
	}
}

func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("hactl", "#!/bin/sh\necho hactl version v9 go1\n", 0o755)
	write("podmaster", "#!/bin/sh\necho podmaster v9 go1\n", 0o755)
	write("kube-apiserver", "#!/bin/sh\necho Kubernetes v1.36.3\n", 0o755)
	write("kube-scheduler", "#!/bin/sh\necho Kubernetes v1.36.3\n", 0o644)
	write("kube-controller-manager", "#!/bin/sh\necho broken >&2; exit 3\n", 0o755)
	c := config.Default()
	c.Kubernetes.BinDir = dir
	link := filepath.Join(t.TempDir(), "hactl")
	if err := os.Symlink(filepath.Join(dir, "hactl"), link); err != nil {
		t.Fatal(err)
	}
	got, _ := lookPrograms(t.Context(), Config{Cluster: c, Hactl: link})
	var words []string
	for _, p := range got {
		words = append(words, fmt.Sprintf("%s %s %v", filepath.Base(p.Path), p.Version, p.Err))
	}
	text := strings.Join(words, "\n")
	for _, want := range []string{
		"hactl v9 go1 <nil>", "podmaster v9 go1 <nil>", "kube-apiserver v1.36.3 <nil>",
		"kube-scheduler is not a program (mode -rw-r--r--)", "does not run: exit status 3: broken",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	got, _ = lookPrograms(t.Context(), Config{Cluster: c, Podmaster: filepath.Join(dir, "none")})
	if len(got) != 5 || got[0].Err != nil || got[0].Version == "" || !errors.Is(got[1].Err, os.ErrNotExist) {
		t.Errorf("%+v", got)
	}
}

func TestLimits(t *testing.T) {
	const limits = "Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max open files            1024                 524288               files     \n"
	if n, err := hardOpenFiles([]byte(limits)); n != 524288 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := hardOpenFiles(nil); err == nil {
		t.Error("no error for nothing")
	}
	if hasCapability([]byte("Name:\tx\nCapEff:\t000001fffeffffff\n"), unix.CAP_SYS_RESOURCE) {
		t.Error("a capability that is not there")
	}
	if !hasCapability([]byte("CapEff:\t000001ffffffffff\n"), unix.CAP_SYS_RESOURCE) {
		t.Error("a capability is not seen")
	}
}

func TestMajor(t *testing.T) {
	for version, want := range map[string]int{`"252.39-1~deb12u2"`: 252, "v257": 257, "255": 255, "": 0, "x": 0} {
		if got := major(version); got != want {
			t.Errorf("%q: %d, want %d", version, got, want)
		}
	}
}

func TestOldInstallation(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	if o := lookOld(l); o.Manifests != nil || o.EtcdData != "" || o.CAName+o.CAOrg != "" || o.CAErr != nil || o.Intent != nil || o.IntentErr != nil {
		t.Errorf("found in an empty folder: %+v", o)
	}
	store, err := pki.New(pki.Config{Dir: l.PKI(), Cluster: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.MkdirAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := store.EnsureCAs(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(l.Kubernetes(), "manifests/kube-apiserver.yaml"), l.Under("/var/lib/etcd/member/snap/db"), filepath.Join(l.State(), "etcd-intent.json")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := lookOld(l)
	if len(o.Manifests) != 1 || o.EtcdData != l.Under("/var/lib/etcd") || o.CAOrg != "test" || o.IntentErr == nil {
		t.Errorf("%+v", o)
	}
	if err := os.WriteFile(filepath.Join(l.PKI(), "ca.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := lookOld(l); o.CAErr == nil {
		t.Error("a broken CA is not seen")
	}
}

func FuzzARPPacket(f *testing.F) {
	addr := netip.MustParseAddr("10.245.1.11")
	f.Add(arpProbe(net.HardwareAddr{2, 0, 0, 0, 0, 1}, addr))
	f.Add([]byte{})
	f.Add(make([]byte, arpBytes))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if mac := claims(packet, addr); mac != "" {
			if _, err := net.ParseMAC(mac); err != nil {
				t.Errorf("%q", mac)
			}
		}
	})
}

func TestClaims(t *testing.T) {
	addr, other := netip.MustParseAddr("10.245.1.11"), netip.MustParseAddr("10.245.1.12")
	probe := arpProbe(net.HardwareAddr{2, 0, 0, 0, 0, 1}, addr)
	if len(probe) != arpBytes {
		t.Fatalf("a probe of %d bytes", len(probe))
	}
	if got := claims(probe, addr); got != "02:00:00:00:00:01" {
		t.Errorf("another's probe for our address: %q", got)
	}
	if got := claims(probe, other); got != "" {
		t.Errorf("a probe for another address: %q", got)
	}
	reply := slices.Clone(probe)
	reply[7] = 2
	copy(reply[14:18], []byte{10, 245, 1, 11})
	copy(reply[24:28], []byte{0, 0, 0, 0})
	if got := claims(reply, addr); got != "02:00:00:00:00:01" {
		t.Errorf("a reply: %q", got)
	}
	if got := claims(reply, other); got != "" {
		t.Errorf("a reply about another address: %q", got)
	}
	ordinary := slices.Clone(probe) // somebody who knows its own address asks for ours
	copy(ordinary[14:18], []byte{10, 245, 1, 12})
	if got := claims(ordinary, addr); got != "" {
		t.Errorf("an ordinary question: %q", got)
	}
}

// What follows runs on machines of their own: see insides.

func TestASmallDisk(t *testing.T) {
	var v []Finding
	inside(t, "small disk", &v)
	if !slices.ContainsFunc(v, func(x Finding) bool {
		return x.Check == CheckSpace && x.Level == Error && strings.Contains(x.Problem, "64 MiB free")
	}) {
		t.Errorf("found %+v", v)
	}
	if !slices.ContainsFunc(v, func(x Finding) bool {
		return x.Check == CheckFsync && x.Level == Warning && strings.Contains(x.Problem, "in memory")
	}) {
		t.Errorf("found %+v", v)
	}
}

// diskFindings are what the checks of the disk find below root.
func diskFindings(root string) []Finding {
	l := layout.Layout{Root: root}
	f := Facts{Cluster: config.Default(), Fsync: measureFsync(context.Background(), l.EtcdData(), 20, time.Second), Volumes: lookVolumes(l, nil)}
	fsync, space := verdict{check: CheckFsync}, verdict{check: CheckSpace}
	judgeFsync(&f, &fsync)
	judgeSpace(&f, &space)
	return append(fsync.findings, space.findings...)
}

func insideSmallDisk() (any, error) {
	if err := run("mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", "/mnt"); err != nil {
		return nil, err
	}
	return diskFindings("/mnt"), nil
}

func TestAFullDisk(t *testing.T) {
	var v []Finding
	inside(t, "full disk", &v)
	if !slices.ContainsFunc(v, func(x Finding) bool {
		return x.Check == CheckFsync && x.Level == Error && strings.Contains(x.Problem, "no space left")
	}) {
		t.Errorf("found %+v", v)
	}
}

func insideFullDisk() (any, error) {
	if err := run("mount", "-t", "tmpfs", "-o", "size=64K", "tmpfs", "/mnt"); err != nil {
		return nil, err
	}
	return diskFindings("/mnt"), nil
}

func TestAReadOnlyDisk(t *testing.T) {
	var v []Finding
	inside(t, "read-only", &v)
	if !slices.ContainsFunc(v, func(x Finding) bool {
		return x.Check == CheckSpace && x.Level == Error && strings.Contains(x.Problem, "is read-only")
	}) {
		t.Errorf("found %+v", v)
	}
}

func insideReadOnly() (any, error) {
	if err := run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/mnt"); err != nil {
		return nil, err
	}
	return diskFindings("/mnt"), nil
}

func TestNoDBus(t *testing.T) {
	var v []Finding
	inside(t, "no bus", &v)
	if len(v) != 1 || v[0].Check != CheckDBus || v[0].Level != Error {
		t.Errorf("found %+v", v)
	}
}

func systemdFindings() []Finding {
	f := Facts{Systemd: lookSystemd(context.Background())}
	s, d := verdict{check: CheckSystemd}, verdict{check: CheckDBus}
	judgeSystemd(&f, &s)
	if withoutSystemd(&f) == "" {
		judgeDBus(&f, &d)
	}
	return append(s.findings, d.findings...)
}

// insideNoBus is a machine that systemd booted (which is what this folder says)
// and whose message bus does not run.
func insideNoBus() (any, error) {
	if err := run("mount", "-t", "tmpfs", "tmpfs", "/run"); err != nil {
		return nil, err
	}
	if err := os.MkdirAll("/run/systemd/system", 0o755); err != nil {
		return nil, err
	}
	return systemdFindings(), nil
}

func TestNoSystemd(t *testing.T) {
	var v []Finding
	inside(t, "no systemd", &v)
	if len(v) != 1 || v[0].Check != CheckSystemd || v[0].Level != Error {
		t.Errorf("found %+v", v)
	}
}

func insideNoSystemd() (any, error) {
	if err := run("mount", "-t", "tmpfs", "tmpfs", "/run"); err != nil {
		return nil, err
	}
	return systemdFindings(), nil
}

// duplicates is what a probe for one's own address answers.
type duplicates struct {
	Alone, Together []string
	Neighbour       string
}

// Two machines on one wire, as the kernel's own ARP has it: each answers for the
// address while it has it.
func TestAnotherMachineWithOurAddress(t *testing.T) {
	var d duplicates
	inside(t, "two of us", &d)
	if len(d.Alone) > 0 {
		t.Errorf("alone, %v answered", d.Alone)
	}
	if !slices.Equal(d.Together, []string{d.Neighbour}) {
		t.Errorf("%v answered, want %s", d.Together, d.Neighbour)
	}
}

const testMAC = "02:00:00:00:00:02"

func insideTwoOfUs() (any, error) {
	var d duplicates
	cmd := insideCommand("neighbour")
	// The neighbour is in this user namespace, with a network of its own.
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = nil, nil
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() { stdin.Close(); _ = cmd.Wait() }()
	for _, args := range [][]string{
		{"ip", "link", "add", "name", "here", "type", "veth", "peer", "name", "there", "address", testMAC, "netns", fmt.Sprint(cmd.Process.Pid)},
		{"ip", "address", "add", "10.9.9.1/24", "dev", "here"},
		{"ip", "link", "set", "here", "up"},
	} {
		if err := run(args...); err != nil {
			return nil, err
		}
	}
	tell := func(address string) error {
		if _, err := fmt.Fprintln(stdin, address); err != nil {
			return err
		}
		_, err := stdout.Read(make([]byte, 1))
		return err
	}
	if err := tell("10.9.9.2/24"); err != nil {
		return nil, err
	}
	if d.Alone, err = lookDuplicates(context.Background(), "10.9.9.1"); err != nil {
		return nil, err
	}
	if err := tell("10.9.9.1/24"); err != nil {
		return nil, err
	}
	d.Neighbour = testMAC
	d.Together, err = lookDuplicates(context.Background(), "10.9.9.1")
	return d, err
}

// insideNeighbour takes each address that it is told, and says when it has it.
func insideNeighbour() (any, error) {
	for {
		var address string
		if _, err := fmt.Scanln(&address); err != nil {
			return nil, nil //nolint:nilerr // the test has ended
		}
		for _, args := range [][]string{{"ip", "address", "add", address, "dev", "there"}, {"ip", "link", "set", "there", "up"}} {
			if err := run(args...); err != nil {
				return nil, err
			}
		}
		fmt.Print(".")
	}
}

// A whole machine: nothing but what is there, through Gather.
func TestAWholeMachine(t *testing.T) {
	var r Report
	inside(t, "whole", &r)
	if r.Master != "m2" {
		t.Errorf("this is master %q, want m2, by its address", r.Master)
	}
	levels := map[string]string{}
	for _, f := range r.Findings {
		levels[f.Check] = f.Level
	}
	for check, level := range map[string]string{
		CheckSystemd: Error, CheckOld: Error, "Port-6443": Error, "Port-7946": Error,
		CheckToken: Error, CheckPrograms: Error, CheckName: Warning,
	} {
		if levels[check] != level {
			t.Errorf("%s: %q, want %s", check, levels[check], level)
		}
	}
	for _, check := range []string{CheckConfig, CheckAddress, CheckRoot, "Port-2379"} {
		if !slices.Contains(r.Passed, check) {
			t.Errorf("%s did not pass", check)
		}
	}
	if t.Failed() {
		var b strings.Builder
		_ = r.Table(&b)
		t.Log(b.String())
	}
}

func insideWhole() (any, error) {
	for _, args := range [][]string{
		{"mount", "-t", "tmpfs", "tmpfs", "/run"},
		{"mount", "-t", "tmpfs", "tmpfs", "/mnt"},
		{"ip", "link", "set", "lo", "up"},
		{"ip", "address", "add", "10.9.9.2/24", "dev", "lo"},
		{"hostname", "m1"},
	} {
		if err := run(args...); err != nil {
			return nil, err
		}
	}
	c := config.Default()
	c.Name = "prod"
	c.Masters = []config.Master{{Name: "m1", Address: "10.9.9.1"}, {Name: "m2", Address: "10.9.9.2"}, {Name: "m3", Address: "10.9.9.3"}}
	c.Kubernetes.BinDir = "/mnt/none"
	l, err := net.Listen("tcp", ":6443")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", "10.9.9.2:7946")
	if err != nil {
		return nil, err
	}
	defer u.Close()
	old := layout.Layout{Root: "/mnt"}
	if err := os.MkdirAll(filepath.Join(old.Kubernetes(), "manifests"), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(old.Kubernetes(), "manifests/etcd.yaml"), nil, 0o600); err != nil {
		return nil, err
	}
	return NewReport(Gather(context.Background(), Config{Cluster: c, Layout: old}), nil), nil
}

// A control plane that somebody else started is seen by its processes.
func TestAnotherControlPlaneRuns(t *testing.T) {
	var v []Finding
	inside(t, "old cluster", &v)
	if !slices.ContainsFunc(v, func(x Finding) bool {
		return x.Check == CheckOld && x.Level == Error && strings.Contains(x.Problem, "kube-apiserver (pid ")
	}) {
		t.Errorf("found %+v", v)
	}
}

func insideOldCluster() (any, error) {
	if err := run("mount", "-t", "tmpfs", "tmpfs", "/mnt"); err != nil {
		return nil, err
	}
	if err := run("cp", "/bin/cat", "/mnt/kube-apiserver"); err != nil {
		return nil, err
	}
	cmd := exec.Command("/mnt/kube-apiserver") // reads until its input ends
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() { stdin.Close(); _ = cmd.Wait() }()
	f := Facts{Old: lookOld(layout.Layout{Root: "/mnt"})}
	v := verdict{check: CheckOld}
	judgeOld(&f, &v)
	return v.findings, nil
}

// A port whose holder lets go while it is looked for, as an agent does that begins
// anew, is not taken.
func TestAPortThatIsLetGoIsNotTaken(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil { // bound and not listening: no table has it
		t.Fatal(err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	ports := []PortUse{{Port: config.Port{Address: "127.0.0.1", Port: local.(*unix.SockaddrInet4).Port}, Net: "tcp"}}
	if unknown := lookAtPorts(t.Context(), ports); !unknown || !ports[0].Taken {
		t.Fatalf("a bound port: %+v", ports[0])
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	if unknown := lookAtPorts(t.Context(), ports); unknown || ports[0].Taken {
		t.Errorf("a port that was let go: %+v", ports[0])
	}
}
