package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// good are the facts of a machine that has no fault at all.
func good(t *testing.T) Facts {
	t.Helper()
	c := config.Default()
	c.Name = "prod"
	c.Masters = []config.Master{{Name: "m1", Address: "10.245.1.11"}, {Name: "m2", Address: "10.245.1.12"}, {Name: "m3", Address: "10.245.1.13"}}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	f := Facts{
		Cluster: c, Master: c.Masters[0], Hostname: "m1",
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.245.1.11")},
		Machine:   "a",
		Systemd:   Systemd{Booted: true, Version: 252, State: "running"},
		Peers:     []Peer{{Name: "m2", Address: "10.245.1.12", Machine: "b", Skew: 3 * time.Millisecond}},
		Fsync:     Fsync{Dir: "/var/lib", Writes: 200, P99: 2 * time.Millisecond, Max: 4 * time.Millisecond},
		Volumes:   []Volume{{Paths: []string{"/var/lib/hactl/etcd", "/var/log/hactl"}, Free: 40 << 30, Need: 18 << 30, Least: 1 << 30}},
		OpenFiles: 1 << 20, Memory: 4 << 30, CPUs: 4, Release: "v1 go", TokenFile: "/etc/hactl/token",
		Programs: []Program{
			{Path: "/opt/hactl/hactl", Version: "v1 go"}, {Path: "/opt/hactl/podmaster", Version: "v1 go"},
			{Path: "/opt/hactl/kube/kube-apiserver", Kubernetes: true, Version: c.Kubernetes.Version},
		},
		Kubelet: c.Kubernetes.Version,
		Old:     Old{IntentFile: "/var/lib/hactl/etcd-intent.json"},
	}
	for _, p := range c.Ports(f.Master) {
		for _, n := range networks(p) {
			f.Ports = append(f.Ports, PortUse{Port: p, Net: n})
		}
	}
	return f
}

func (f *Facts) take(port int, network string, by Process) {
	for i := range f.Ports {
		if f.Ports[i].Port.Port == port && f.Ports[i].Net == network {
			f.Ports[i].Taken, f.Ports[i].Holder = true, by
		}
	}
}

func intent(cluster, member string, s etcdcluster.State) *etcdcluster.Intent {
	in := etcdcluster.NewIntent(cluster, member, []etcdcluster.Peer{{Name: member, URL: "https://10.245.1.11:2380"}})
	in.State = s
	return &in
}

type fault struct {
	name    string
	given   func(*Facts)
	check   string
	level   string
	problem string // part of
	cure    string // part of
}

// faults says for each fault how it comes about and what must be found; nothing
// else may be.
var faults = []fault{
	{"no file", func(f *Facts) {
		*f = Facts{ConfigErr: exitcode.Errorf(exitcode.Usage, "read: %w", fs.ErrNotExist).WithHint("make one"), Systemd: f.Systemd, CPUs: 2, OpenFiles: 1 << 20, Memory: 4 << 30}
	}, CheckConfig, Error, "read: file does not exist", "make one"},
	{"an even number", func(f *Facts) {
		f.Cluster.Masters = f.Cluster.Masters[:2]
	}, CheckConfig, Warning, "2", "hactl config validate"},
	{"wrong --name", func(f *Facts) { f.Wanted = "m9" }, CheckName, Error, `no master "m9", only m1 (10.245.1.11), m2`, "--name"},
	{"nobody's machine", func(f *Facts) {
		f.Hostname, f.Addresses, f.Master = "pc", []netip.Addr{netip.MustParseAddr("10.0.0.9")}, config.Master{}
	}, CheckName, Error, "this machine, pc with 10.0.0.9, has neither name nor address of a master", "--name"},
	{"another's hostname", func(f *Facts) { f.Hostname = "m2" }, CheckName, Warning, "called m2, which is another master, and is to be m1", "hostnamectl set-hostname m1"},
	{"two of one name", func(f *Facts) {
		f.Peers = append(f.Peers, Peer{Name: "m1", Address: "10.245.1.99", Machine: "z"})
	}, CheckName, Error, "another machine, at 10.245.1.99, says that it is master m1 too", "a name of its own"},
	{"address elsewhere", func(f *Facts) {
		f.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.9")}
	}, CheckAddress, Error, "10.245.1.11, the address of master m1, is on no interface of this machine (it has 10.0.0.9)", "ip address add 10.245.1.11"},
	{"two of one address", func(f *Facts) { f.Peers[0].Address = "10.245.1.11" }, CheckAddress, Error, "master m2 says that 10.245.1.11 is its address too", "masters"},
	{"answered by another", func(f *Facts) { f.Duplicates = []string{"02:00:00:00:00:01"} }, CheckAddress, Error, "another machine in the network has 10.245.1.11 too: 02:00:00:00:00:01", "ip neighbour"},
	{"the network cannot be asked", func(f *Facts) { f.DuplicatesErr = errors.New("only root") }, CheckAddress, Warning, "could not be checked", "root"},
	{"a user", func(f *Facts) { f.UID = 1000 }, CheckRoot, Error, "this is user 1000", "sudo"},
	{"no systemd", func(f *Facts) { f.Systemd = Systemd{} }, CheckSystemd, Error, "PID 1 is not systemd", "hactl dev up"},
	{"shutting down", func(f *Facts) { f.Systemd.State = "stopping" }, CheckSystemd, Error, "systemd is stopping", "is-system-running"},
	{"old systemd", func(f *Facts) { f.Systemd.Version = 246 }, CheckSystemd, Warning, "systemd 246 is older than 247", "upgrade"},
	{"no D-Bus", func(f *Facts) { f.Systemd.BusErr = errors.New("dial /run/dbus") }, CheckDBus, Error, "over D-Bus: dial /run/dbus", "install dbus"},
	{"a port of somebody", func(f *Facts) {
		f.take(6443, "tcp", Process{812, "haproxy", "haproxy.service"})
	}, "Port-6443", Error, "10.245.1.11:6443/tcp, for the load balancer, is taken by haproxy (pid 812, haproxy.service)", "systemctl disable --now haproxy.service, or give another frontDoor.port"},
	{"a port of nobody known", func(f *Facts) { f.take(2379, "tcp", Process{}) }, "Port-2379", Error, "10.245.1.11:2379/tcp, for etcd, clients, is taken", "ss -lntup 'sport = :2379'"},
	{"a port of a process", func(f *Facts) { f.take(7946, "udp", Process{9, "serf", ""}) }, "Port-7946", Error, "10.245.1.11:7946/udp, for gossip, is taken by serf (pid 9)", "kill 9"},
	{"a unit like ours", func(f *Facts) { f.take(6443, "tcp", Process{9, "x", "hactl-lb-2.service"}) }, "Port-6443", Error, "hactl-lb-2.service", "disable"},
	{"a port that cannot be tried", func(f *Facts) { f.Ports[0].Err = errors.New("permission denied") }, "Port-6443", Warning, "could not be checked", "root"},
	{"kubeadm's manifests", func(f *Facts) {
		f.Old.Manifests = []string{"/etc/kubernetes/manifests/etcd.yaml"}
	}, CheckOld, Error, "static pods of another control plane are here: /etc/kubernetes/manifests/etcd.yaml", "kubeadm reset"},
	{"another control plane", func(f *Facts) {
		f.Old.Processes = []Process{{7, "etcd", "etcd.service"}}
	}, CheckOld, Error, "etcd (pid 7, etcd.service) runs", "systemctl disable --now etcd.service"},
	{"another etcd's data", func(f *Facts) { f.Old.EtcdData = "/var/lib/etcd" }, CheckOld, Warning, "data in /var/lib/etcd", "remove"},
	{"another cluster's CA", func(f *Facts) {
		f.Old.CAFile, f.Old.CAName, f.Old.CAOrg = "/pki/ca.crt", "kubernetes-ca", "test"
	}, CheckOld, Error, "/pki/ca.crt is the CA of cluster test, and the configuration is for prod", "hactl reset"},
	{"kubeadm's CA", func(f *Facts) { f.Old.CAFile, f.Old.CAName = "/pki/ca.crt", "kubernetes" }, CheckOld, Warning, "a CA that hactl did not make (kubernetes)", "move"},
	{"a broken CA", func(f *Facts) { f.Old.CAErr = errors.New("ca.crt: no PEM") }, CheckOld, Error, "ca.crt: no PEM", "move"},
	{"a member of another cluster", func(f *Facts) {
		f.Old.Intent = intent("test", "m1", etcdcluster.Used)
	}, CheckOld, Error, "of cluster test (/var/lib/hactl/etcd-intent.json), and the configuration is for prod", "hactl reset"},
	{"another member", func(f *Facts) { f.Old.Intent = intent("prod", "m3", etcdcluster.Used) }, CheckOld, Error, "this machine is master m3", "--name m3"},
	{"a removed member", func(f *Facts) { f.Old.Intent = intent("prod", "m1", etcdcluster.Removed) }, CheckOld, Error, "the cluster has removed this machine's member", "hactl reset, then hactl join"},
	{"a broken intent", func(f *Facts) { f.Old.IntentErr = errors.New("version 9") }, CheckOld, Error, "version 9", "hactl reset"},
	{"no token", func(f *Facts) {
		f.TokenErr = exitcode.Errorf(exitcode.Usage, "no token").WithHint("hactl token create > T")
	}, CheckToken, Error, "no token", "hactl token create > T"},
	{"no token, and no need", func(f *Facts) {
		f.TokenErr, f.Old.Intent = errors.New("no token"), intent("prod", "m1", etcdcluster.Used)
	}, CheckToken, Warning, "no token", "hactl token create"},
	{"an expired token", func(f *Facts) {
		f.TokenErr = pki.TokenValid(pki.NewToken(time.Unix(1, 0)), time.Unix(2, 0))
	}, CheckToken, Error, "the token expired", "hactl token rotate"},
	{"no podmaster", func(f *Facts) { f.Programs[1] = Program{Path: "/p", Err: errors.New("/p: no such file")} }, CheckPrograms, Error, "/p: no such file", "hactl and podmaster"},
	{"no API server", func(f *Facts) {
		f.Programs[2] = Program{Path: "/k", Kubernetes: true, Err: errors.New("/k is not a program")}
	}, CheckPrograms, Error, "/k is not a program", "kubernetes.binDir"},
	{"two releases", func(f *Facts) { f.Programs[1].Version = "v2 go" }, CheckPrograms, Warning, "/opt/hactl/podmaster is v2 go, and hactl is v1 go", "one release"},
	{"another Kubernetes", func(f *Facts) { f.Programs[2].Version = "v1.30.0" }, CheckKubernetes, Error, "kube-apiserver is v1.30.0, and kubernetes.version is v1.3", "kubernetes.version"},
	{"a newer kubelet", func(f *Facts) { f.Kubelet = "v1.99.0" }, CheckKubernetes, Warning, "kubelet is v1.99.0", "API servers before"},
	{"a slow disk", func(f *Facts) { f.Fsync.P99 = 11 * time.Millisecond }, CheckFsync, Warning, "takes 11ms (99th percentile of 200, worst 4ms); etcd advises less than 10ms", "SSD"},
	{"a very slow disk", func(f *Facts) { f.Fsync.P99 = 101 * time.Millisecond }, CheckFsync, Error, "takes 101ms", "SSD"},
	{"no disk", func(f *Facts) { f.Fsync.Err = errors.New("input/output error") }, CheckFsync, Error, "input/output error", "dmesg"},
	{"memory for a disk", func(f *Facts) { f.Fsync.FS = "tmpfs" }, CheckFsync, Warning, "/var/lib is in memory", "mount"},
	{"little room", func(f *Facts) { f.Volumes[0].Free = 17 << 30 }, CheckSpace, Warning, "17.0 GiB free for /var/lib/hactl/etcd, /var/log/hactl", "etcd.quota"},
	{"no room", func(f *Facts) { f.Volumes[0].Free = 900 << 20 }, CheckSpace, Error, "900 MiB free for /var/lib/hactl/etcd, /var/log/hactl: less than 1.0 GiB", "room"},
	{"read-only", func(f *Facts) { f.Volumes[0].ReadOnly = true }, CheckSpace, Error, "read-only", "remount"},
	{"room not known", func(f *Facts) { f.Volumes[0].Err = errors.New("stale handle") }, CheckSpace, Warning, "stale handle", "root"},
	{"few files", func(f *Facts) { f.OpenFiles = 20000 }, CheckFiles, Warning, "20000 files", "nr_open"},
	{"very few files", func(f *Facts) { f.OpenFiles = 1024 }, CheckFiles, Error, "1024 files", "nr_open"},
	{"files not known", func(f *Facts) { f.OpenFilesErr = errors.New("denied") }, CheckFiles, Warning, "denied", "root"},
	{"a second ahead", func(f *Facts) { f.Peers[0].Skew = 1100 * time.Millisecond }, CheckSkew, Warning, "the clock of master m2 is 1.1s ahead of this machine's", "timedatectl"},
	{"an hour behind", func(f *Facts) { f.Peers[0].Skew = -time.Hour }, CheckSkew, Error, "the clock of master m2 is 1h0m0s behind this machine's", "timedatectl"},
	{"no time server", func(f *Facts) { f.Unsynchronised = true }, CheckClock, Warning, "no time server", "chrony"},
	{"the clock cannot be asked", func(f *Facts) { f.ClockErr = errors.New("denied") }, CheckClock, Warning, "denied", "root"},
	{"little memory", func(f *Facts) { f.Memory = 1 << 30 }, CheckMemory, Warning, "1.0 GiB of memory", "2 GB"},
	{"memory not known", func(f *Facts) { f.MemoryErr = errors.New("denied") }, CheckMemory, Warning, "denied", "root"},
	{"one processor", func(f *Facts) { f.CPUs = 1 }, CheckCPU, Warning, "one processor", "2 processors"},
	{"swap", func(f *Facts) { f.Swap = 1 << 30 }, CheckSwap, Warning, "swap is on (1.0 GiB)", "swapoff"},
}

func TestEachFaultIsFoundAndNothingElse(t *testing.T) {
	for _, c := range faults {
		t.Run(c.name, func(t *testing.T) {
			f := good(t)
			c.given(&f)
			got := Evaluate(f)
			if len(got) != 1 {
				t.Fatalf("%d findings, want one: %+v", len(got), got)
			}
			x := got[0]
			if x.Check != c.check || x.Level != c.level || !strings.Contains(x.Problem, c.problem) || !strings.Contains(x.Cure, c.cure) {
				t.Errorf("got %+v\nwant %s %s with %q, cured by %q", x, c.level, c.check, c.problem, c.cure)
			}
		})
	}
}

func TestEveryCheckIsTried(t *testing.T) {
	for _, n := range Names(good(t)) {
		if strings.HasPrefix(n, portPrefix) {
			n = "Port-6443"
		}
		if !slices.ContainsFunc(faults, func(c fault) bool { return c.check == n }) {
			t.Errorf("no fault of %s is in the table", n)
		}
	}
}

func TestWhatIsAllowed(t *testing.T) {
	cases := map[string]func(*Facts){
		"a sound machine":                 func(*Facts) {},
		"a master that serves":            func(f *Facts) { f.Old.Intent = intent("prod", "m1", etcdcluster.Used) },
		"a founding that is under way":    func(f *Facts) { f.Old.Intent = intent("prod", "m1", etcdcluster.Pending) },
		"its own balancer":                func(f *Facts) { f.take(6443, "tcp", Process{9, "hactl", "hactl-lb.service"}) },
		"its own socket, kept by systemd": func(f *Facts) { f.take(6443, "tcp", Process{1, "systemd", "hactl-lb.socket"}) },
		"its own scheduler":               func(f *Facts) { f.take(10259, "tcp", Process{9, "kube-scheduler", "podmaster@kube-scheduler.service"}) },
		"its own CA":                      func(f *Facts) { f.Old.CAFile, f.Old.CAName, f.Old.CAOrg = "/pki/ca.crt", "kubernetes-ca", "prod" },
		"systemd with a failed unit":      func(f *Facts) { f.Systemd.State = "degraded" },
		"its own card, come back":         func(f *Facts) { f.Peers[0] = Peer{Name: "m1", Address: "10.245.1.11", Machine: "a"} },
		"a full disk, full of its own":    func(f *Facts) { f.Volumes[0].Free, f.Volumes[0].Own = 2<<30, 17<<30 },
		"an older kubelet":                func(f *Facts) { f.Kubelet = "v1.34.0" },
		"no kubelet":                      func(f *Facts) { f.Kubelet = "" },
		"half a second":                   func(f *Facts) { f.Peers[0].Skew = -500 * time.Millisecond },
		"a hostname that is no master's":  func(f *Facts) { f.Hostname = "rack7" },
		"the name given, a loopback lab": func(f *Facts) {
			f.Cluster.Masters[0].Address, f.Master.Address, f.Wanted = "127.0.1.1", "127.0.1.1", "m1"
		},
		"a peer that does not tell itself": func(f *Facts) { f.Peers = append(f.Peers, Peer{Name: "m1", Address: "10.245.1.11"}) },
	}
	for name, given := range cases {
		t.Run(name, func(t *testing.T) {
			f := good(t)
			given(&f)
			if got := Evaluate(f); len(got) > 0 {
				t.Errorf("found %+v", got)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	f := good(t)
	f.UID, f.Systemd.BusErr, f.TokenErr = 1000, errors.New("no bus"), errors.New("no token")
	f.take(6443, "tcp", Process{})
	f.Peers[0].Skew = time.Hour
	var got []string
	for _, x := range Evaluate(f) {
		got = append(got, x.Check)
	}
	if want := "Root DBus Port-6443 Token TimeSkew"; strings.Join(got, " ") != want {
		t.Errorf("found %v, want %s", got, want)
	}
}

func TestEveryFaultOfTheConfigurationIsAFinding(t *testing.T) {
	_, err := config.Parse("c.yaml", []byte("apiVersion: hactl/v1alpha1\nkind: Cluster\nname: prod\nnonsense: 1\nmasters:\n- {name: m1, address: x}\n"))
	f := good(t)
	f.Cluster, f.ConfigErr, f.Master = nil, err, config.Master{}
	got := Evaluate(f)
	if len(got) != 2 || !strings.Contains(got[0].Problem+got[1].Problem, "c.yaml:4") || !strings.Contains(got[0].Problem+got[1].Problem, "masters[0].address") {
		t.Errorf("found %+v, want two faults of the file", got)
	}
}

// The names of our own units are written down here as well as in master, which
// is no lower floor.
func TestOwnUnitsAreTheMasters(t *testing.T) {
	c := good(t).Cluster
	l := layout.Layout{Root: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(l.Root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	h, err := master.New(c, "m1", l, master.Programs{Hactl: "/opt/hactl", Podmaster: "/opt/podmaster"})
	if err != nil {
		t.Fatal(err)
	}
	units, err := h.Units()
	if err != nil {
		t.Fatal(err)
	}
	if len(units) < 6 {
		t.Fatalf("only %d units", len(units))
	}
	for _, u := range units {
		if !ownUnit(systemd.FileName(u.Name)) {
			t.Errorf("%s is not known as our own", u.Name)
		}
	}
	for _, no := range []string{"", "hactl-etcd", "etcd.service", "kubelet.service", "session-1.scope", "podmaster.service"} {
		if ownUnit(no) {
			t.Errorf("%q counts as our own", no)
		}
	}
}

func TestSelf(t *testing.T) {
	c := good(t).Cluster
	ip := netip.MustParseAddr
	cases := []struct {
		wanted, hostname string
		addresses        []netip.Addr
		want             string // name, or part of the error
	}{
		{"m2", "m1", []netip.Addr{ip("10.245.1.11")}, "m2"},
		{"", "m1", []netip.Addr{ip("10.245.1.13")}, "m3"},
		{"", "M2.example.com", nil, "m2"},
		{"", "m1", []netip.Addr{ip("10.245.1.12"), ip("10.245.1.13")}, "m1"},
		{"", "pc", []netip.Addr{ip("10.245.1.12"), ip("10.245.1.13")}, "the addresses of 2 masters"},
		{"", "pc", []netip.Addr{ip("127.0.0.1"), ip("fe80::1")}, "pc with no address"},
		{"", "pc", []netip.Addr{ip("::ffff:10.245.1.12")}, "m2"},
		{"x", "m1", nil, `no master "x"`},
	}
	for _, tc := range cases {
		m, err := Self(c, tc.wanted, tc.hostname, tc.addresses)
		got := m.Name
		if err != nil {
			got = err.Error()
		}
		if got != tc.want && (err == nil || !strings.Contains(got, tc.want)) {
			t.Errorf("%+v: got %s", tc, got)
		}
	}
}

func TestSelfOnLoopbackNeedsTheName(t *testing.T) {
	c := config.Default()
	c.Masters = []config.Master{{Name: "m1", Address: "127.0.1.1"}, {Name: "m2", Address: "127.0.1.2"}}
	if m, err := Self(c, "", "pc", nil); err == nil {
		t.Errorf("guessed %s", m.Name)
	}
}

func TestCheckIgnore(t *testing.T) {
	if err := CheckIgnore([]string{"root", "PORT-6443", "ALL", "DiskFsync"}); err != nil {
		t.Error(err)
	}
	err := CheckIgnore([]string{"Root", "Rot", "Port-", "Port-x"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"Rot", "Port-", "Port-x"`, "all, Config, Name", "Port-NUMBER", "Swap"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
	if strings.Contains(err.Error(), `"Root"`) {
		t.Errorf("names a known check: %v", err)
	}
}

func ExampleEvaluate() {
	for _, f := range Evaluate(Facts{Cluster: config.Default(), UID: 1000, CPUs: 2, OpenFiles: 1 << 20, Memory: 4 << 30, Systemd: Systemd{Booted: true}}) {
		if f.Level == Error {
			fmt.Println(f.Check + ": " + f.Problem)
		}
	}
	// Output:
	// Name: this machine,  with no address, has neither name nor address of a master: none
	// Root: a master is set up by root, and this is user 1000
}
