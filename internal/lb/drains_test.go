package lb

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// drainedOnDisk is what the kept file says; nil when there is none.
func drainedOnDisk(t *testing.T, path string) (names []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var s struct{ Drained []string }
	if err := errors.Join(err, json.Unmarshal(data, &s)); err != nil {
		t.Fatal(err)
	}
	return s.Drained
}

// An operator's drain survives a restart while the backend is in the list.
func TestDrainSurvivesARestart(t *testing.T) {
	for _, fixed := range []bool{false, true} {
		ca, s := three(t)
		path := filepath.Join(t.TempDir(), "sub", "kept.json")
		cfg := Config{Source: sourceOf(s[:]...), StateFile: path, SourceName: "s", Fixed: fixed, SlowStart: -1}
		r := newRig(t, ca, cfg)
		if _, err := os.Stat(path); fixed && err == nil {
			t.Error("a file with nothing to keep")
		}
		if err := errors.Join(r.Drain("a"), r.Drain(s[1].addr)); err != nil {
			t.Fatal(err)
		}
		r.stop()
		r = newRig(t, ca, cfg)
		r.until("c", "ready")
		if a, b, c := r.backend("a"), r.backend("b"), r.backend("c"); !a.Drained || !b.Drained || c.Drained {
			t.Errorf("fixed=%v: drained after a restart: %v %v %v, want a and b", fixed, a.Drained, b.Drained, c.Drained)
		}
		if got := r.names(4); got["c"] != 4 {
			t.Errorf("answers with a and b drained: %v", got)
		}
		if err := r.Undrain("a"); err != nil {
			t.Fatal(err)
		}
		r.stop()
		cfg.Source = sourceOf(s[0], s[2]) // b is no longer in the list
		r = newRig(t, ca, cfg)
		if r.backend("a").Drained {
			t.Error("undrain did not last")
		}
		if got := drainedOnDisk(t, path); len(got) != 0 {
			t.Errorf("fixed=%v: kept as drained: %q", fixed, got)
		}
		r.stop()
		cfg.Source = sourceOf(s[:]...)
		if r = newRig(t, ca, cfg); r.backend("b").Drained {
			t.Error("b is drained although it had left the list")
		}
		r.stop()
	}
}

// Draining a name drains the addresses it will have, also when it has none now; and
// undrain ends that.
func TestDrainOfAnUnresolvedNameSurvives(t *testing.T) {
	ca := newCA(t)
	a := newAPIServer(t, ca, "a")
	port := a.addr[strings.LastIndex(a.addr, ":")+1:]
	dns, resolver := newDNS(t)
	cfg := Config{
		Source: Static([]Backend{{Name: "api", Address: "api.example.test:" + port}, {Name: "api2", Address: a.addr}}), Resolver: resolver,
		ResolveEvery: time.Hour, StateFile: filepath.Join(t.TempDir(), "kept.json"),
	}
	r := newRig(t, ca, cfg)
	if err := r.Drain("api"); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r = newRig(t, ca, cfg)
	dns.says("127.0.0.1", "127.0.0.2")
	r.Reload()
	eventually(t, "both addresses", func() bool { return r.backend("api@127.0.0.2").Name != "missing" })
	if !r.backend("api@127.0.0.1").Drained || !r.backend("api@127.0.0.2").Drained || r.backend("api2").Drained {
		t.Errorf("%+v", r.Status().Backends)
	}
	if err := r.Undrain("api"); err != nil {
		t.Fatal(err)
	}
	if got := drainedOnDisk(t, cfg.StateFile); len(got) != 0 || r.backend("api@127.0.0.1").Drained {
		t.Errorf("after undrain: %q", got)
	}
}

// A successor gets what is drained from its predecessor, not from the disk; until it
// serves nothing else is drained, since it would not know.
func TestDrainsAreHandedOver(t *testing.T) {
	ca, s := three(t)
	cfg := Config{Source: sourceOf(s[:]...), StateFile: filepath.Join(t.TempDir(), "kept.json")}
	r := newRig(t, ca, cfg)
	if err := r.Drain("a"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("true")
	r.HandDrains(cmd)
	if err := r.Drain("b"); !errors.Is(err, ErrHandingOver) {
		t.Errorf("a drain that the successor does not know of: %v", err)
	}
	at := slices.IndexFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, envDrained+"=") })
	if at < 0 {
		t.Fatal("nothing is handed over")
	}
	r.KeepDrains() // it did not serve
	if err := r.Undrain("a"); err != nil {
		t.Errorf("without a successor: %v", err)
	}
	if err := r.Drain("b"); err != nil {
		t.Error(err)
	}
	r.stop()
	_, value, _ := strings.Cut(cmd.Env[at], "=")
	t.Setenv(envDrained, value)
	cfg.Drained = InheritedDrains()
	if _, still := os.LookupEnv(envDrained); still {
		t.Error("it is left in the environment")
	}
	r = newRig(t, ca, cfg)
	if a, b := r.backend("a"), r.backend("b"); !a.Drained || b.Drained {
		t.Errorf("drained: %v %v, want a as handed over", a.Drained, b.Drained)
	}
	r.stop()
	cfg.Drained = []string{} // handed over: nobody
	if r = newRig(t, ca, cfg); r.backend("a").Drained {
		t.Error("the disk outweighs the predecessor")
	}
	if InheritedDrains() != nil {
		t.Error("a predecessor of an older version hands something over")
	}
}

// The last backend is drained only by who means it.
func TestLastBackendIsNotDrainedSafely(t *testing.T) {
	ca, s := three(t)
	log := &lines{}
	r := newRig(t, ca, Config{
		Source: sourceOf(s[0], s[1]), AdminSocket: filepath.Join(t.TempDir(), "lb.sock"), Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	r.until("a", "ready")
	r.until("b", "ready")
	admin := NewClient(r.cfg.AdminSocket)
	eventually(t, "the admin socket", func() bool { return admin.DrainSafely(t.Context(), "a") == nil })
	if err := admin.DrainSafely(t.Context(), "b"); !errors.Is(err, ErrLastBackend) || r.backend("b").Drained {
		t.Errorf("the last one: %v", err)
	}
	if err := admin.DrainSafely(t.Context(), "a"); err != nil {
		t.Errorf("one that is drained already: %v", err)
	}
	if err := admin.DrainSafely(t.Context(), "x"); !errors.Is(err, ErrNoBackend) {
		t.Error(err)
	}
	if err := admin.Drain(t.Context(), "b"); err != nil || !r.backend("b").Drained {
		t.Errorf("one who means it: %v", err)
	}
	if err := admin.Undrain(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	if n := len(log.with("drained by an operator")); n != 3 || len(log.with("backend no longer drained by an operator", "backend=b")) != 1 {
		t.Errorf("logged: %q", log.with("drained"))
	}
}

// A list that is good again is told once.
func TestGoodListIsTold(t *testing.T) {
	ca, s := three(t)
	path := filepath.Join(t.TempDir(), "list")
	good := s[0].addr + ",name=a\n"
	writeFile(t, path, good)
	log := &lines{}
	r := newRig(t, ca, Config{Source: File(path), Logger: slog.New(slog.NewTextHandler(log, nil))})
	for _, content := range []string{good, "nonsense\n", good, good} {
		writeFile(t, path, content)
		r.follow(t.Context(), true)
	}
	if got := log.with("level=INFO", "good again"); len(got) != 1 {
		t.Errorf("logged: %q", got)
	}
}

// One whose queue of newcomers is full has its socket open: it may be frozen and come back.
func TestFullQueueIsNoDeadBalancer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lb.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.Dial("unix", path)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	b := &Balancer{cfg: Config{AdminSocket: path}}
	if err := b.alone(); !errors.Is(err, ErrAdminTaken) {
		t.Errorf("got %v", err)
	}
}

// Who wants IPv6 and got a socket without it is told.
func TestIPv4AloneIsTold(t *testing.T) {
	four := listener(t, "0.0.0.0:0")
	defer four.Close()
	_, port, _ := net.SplitHostPort(addressOf(t, four))
	six, sixPort := ipv6Alone(t)
	defer six.Close()
	for _, tc := range []struct {
		listen string
		file   *os.File
		told   bool
	}{
		{":" + port, four, true},
		{"[::]:" + port, four, true},
		{"0.0.0.0:" + port, four, false},
		{"127.0.0.1:" + port, four, false},
		{"unix:/x", four, false},
		{"[::]:" + sixPort, six, false},
	} {
		if got := IPv4Alone([]string{tc.listen}, []*os.File{tc.file}); (len(got) == 1) != tc.told {
			t.Errorf("%s: %q", tc.listen, got)
		}
	}
}

func TestCheckProgram(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file", plain: "permission denied", dir: "is a folder",
	} {
		if err := CheckProgram(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if err := CheckProgram(os.Args[0]); err != nil {
		t.Error(err)
	}
}
