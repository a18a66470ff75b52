package lb

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
)

// dnsServer answers every question for an address with its list; no address is a
// server that fails.
type dnsServer struct {
	conn net.PacketConn
	mu   sync.Mutex
	ips  []string
	bad  string         // this name is not known
	asks map[string]int // by name
}

func newDNS(t *testing.T) (*dnsServer, *net.Resolver) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &dnsServer{conn: conn, asks: map[string]int{}}
	done := make(chan struct{})
	go func() { defer close(done); d.serve() }()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return d, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (d *dnsServer) says(ips ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ips = ips
}

// fails has it fail for one name only.
func (d *dnsServer) fails(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bad = name
}

func (d *dnsServer) asked() (all int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.asks {
		all += n
	}
	return all
}

func (d *dnsServer) askedFor(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asks[name]
}

func (d *dnsServer) serve() {
	buf := make([]byte, 512)
	for {
		n, from, err := d.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer := d.answer(buf[:n]); answer != nil {
			_, _ = d.conn.WriteTo(answer, from)
		}
	}
}

// answer makes a message (RFC 1035, 4.1) with the question and an A record for each
// address.
func (d *dnsServer) answer(query []byte) []byte {
	const header, typeA, ok, failed = 12, 1, 0x8180, 0x8182
	end, name := header, ""
	for end < len(query) && query[end] != 0 {
		name += string(query[end+1:min(len(query), end+1+int(query[end]))]) + "."
		end += 1 + int(query[end])
	}
	end += 5 // the root's label, type and class
	if end > len(query) {
		return nil
	}
	question := query[header:end]
	d.mu.Lock()
	defer d.mu.Unlock()
	ips := slices.Clone(d.ips)
	d.asks[name]++
	flags := uint16(ok)
	if len(ips) == 0 || d.bad != "" && strings.HasPrefix(name, d.bad) { // also with a suffix of resolv.conf's
		flags = failed
	}
	if binary.BigEndian.Uint16(question[len(question)-4:]) != typeA || flags == failed {
		ips = nil
	}
	out := slices.Clone(query[:2])
	for _, v := range []uint16{flags, 1, uint16(len(ips)), 0, 0} {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	out = append(out, question...)
	for _, ip := range ips {
		out = append(out, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 0, 0, 4)
		out = append(out, net.ParseIP(ip).To4()...)
	}
	return out
}

// The addresses behind a name come and go; connections to those that stay are not
// touched, and a name that cannot be looked up keeps what it had.
func TestNamesAreResolvedAgain(t *testing.T) {
	ca := newCA(t)
	a := newAPIServer(t, ca, "a")
	_, port, _ := net.SplitHostPort(a.addr)
	newAPIServerAt(t, ca, "b", "127.0.0.2:"+port)
	dns, resolver := newDNS(t)
	dns.says("127.0.0.1")
	r := newRig(t, ca, Config{
		Source:   Static([]Backend{{Name: "api", Address: "api.example.test:" + port}}),
		Resolver: resolver, SlowStart: -1, Algorithm: "round-robin", DrainTimeout: time.Millisecond, Rebalance: -1,
	})
	backends := func() string {
		var names []string
		for _, b := range r.Status().Backends {
			if !b.Removed && b.Usable {
				names = append(names, b.Name+"="+b.Address)
			}
		}
		return strings.Join(names, " ")
	}
	until := func(want string) {
		t.Helper()
		eventually(t, "backends "+want, func() bool {
			r.Reload() // an address is gone after three answers without it
			return backends() == want
		})
	}
	until("api=127.0.0.1:" + port)
	old := r.client()
	if name, err := old.name(); name != "a" || err != nil {
		t.Fatal(name, err)
	}

	dns.says("127.0.0.1", "127.0.0.2")
	until("api@127.0.0.1=127.0.0.1:" + port + " api@127.0.0.2=127.0.0.2:" + port)
	if got := r.names(4); got["a"] == 0 || got["b"] == 0 {
		t.Errorf("answers: %v", got)
	}
	ticks := r.ticked.Load()
	eventually(t, "more than the drain timeout", func() bool { return r.ticked.Load() > ticks+int64(2*time.Second) })
	if name, err := old.name(); name != "a" || err != nil {
		t.Errorf("old connection: %q %v", name, err)
	}
	if n := r.Status().Counts.Accepted; n != 5 {
		t.Errorf("%d connections were accepted, want 5: the old one was cut", n)
	}

	dns.says() // it fails
	r.Reload()
	asked := r.ticked.Load()
	eventually(t, "another look", func() bool { return r.ticked.Load() > asked+int64(time.Second) })
	if got := r.names(4); got["a"] == 0 || got["b"] == 0 {
		t.Errorf("answers while the name cannot be looked up: %v", got)
	}

	// An operator's word on the name holds for the addresses that it gets later.
	dns.says("127.0.0.1")
	until("api=127.0.0.1:" + port)
	if err := r.Drain("api"); err != nil {
		t.Fatal(err)
	}
	dns.says("127.0.0.1", "127.0.0.2")
	r.Reload()
	testwait.For(t, "both addresses to be drained", patience, func() error {
		s := r.Status()
		n := 0
		for _, b := range s.Backends {
			if !b.Removed && b.Drained && !b.Usable {
				n++
			}
		}
		if n != 2 {
			return errNotYet
		}
		return nil
	})
	if err := r.Undrain("api"); err != nil {
		t.Fatal(err)
	}
	until("api@127.0.0.1=127.0.0.1:" + port + " api@127.0.0.2=127.0.0.2:" + port)

	dns.says("127.0.0.2")
	until("api=127.0.0.2:" + port)
	if got := r.names(4); got["b"] != 4 {
		t.Errorf("answers: %v", got)
	}
}

// A name that leads to the balancer itself is not followed.
func TestNameThatLeadsBackIsLeftOut(t *testing.T) {
	ca := newCA(t)
	f := listener(t, "127.0.0.1:0")
	addr := addressOf(t, f)
	_, port, _ := net.SplitHostPort(addr)
	newAPIServerAt(t, ca, "b", "127.0.0.2:"+port)
	dns, resolver := newDNS(t)
	dns.says("127.0.0.1", "127.0.0.2")
	r := newRig(t, ca, Config{Listeners: files(f), Source: Static([]Backend{{Name: "api", Address: "api.example.test:" + port}}), Resolver: resolver})
	testwait.For(t, "the other address to be ready", patience, r.Ready)
	if got := r.names(5); got["b"] != 5 {
		t.Errorf("answers: %v", got)
	}
	if n := r.Status().Counts.Accepted; n != 5 {
		t.Errorf("%d connections for five clients", n)
	}
}

// Names are looked up again without anybody asking for it.
func TestNamesAreResolvedByTheClock(t *testing.T) {
	ca := newCA(t)
	a := newAPIServer(t, ca, "a")
	_, port, _ := net.SplitHostPort(a.addr)
	newAPIServerAt(t, ca, "b", "127.0.0.2:"+port)
	dns, resolver := newDNS(t)
	dns.says("127.0.0.1")
	r := newRig(t, ca, Config{
		Source:   Static([]Backend{{Name: "api", Address: "api.example.test:" + port}}),
		Resolver: resolver, ResolveEvery: 50 * time.Millisecond,
	})
	r.until("api", "ready")
	dns.says("127.0.0.2")
	eventually(t, "the new address", func() bool {
		for _, b := range r.Status().Backends {
			if b.Address == "127.0.0.2:"+port && b.Usable {
				return true
			}
		}
		return false
	})
	eventually(t, "the old address to go", func() bool { return len(r.Status().Backends) == 1 })
	if got := r.names(3); got["b"] != 3 {
		t.Errorf("answers: %v", got)
	}
}

// Name servers that answer in turns leave some addresses out each time; one is gone
// when three answers in a row do without it.
func TestAddressesAreMissedThreeTimes(t *testing.T) {
	var known []knownAddr
	for i, step := range []struct {
		answer, want string
		changed      bool
	}{
		{"10.0.0.2 10.0.0.1", "10.0.0.1 10.0.0.2", true},
		{"10.0.0.1", "10.0.0.1 10.0.0.2", false},
		{"10.0.0.2", "10.0.0.1 10.0.0.2", false},
		{"10.0.0.1 10.0.0.1", "10.0.0.1 10.0.0.2", false},
		{"10.0.0.1", "10.0.0.1 10.0.0.2", false},
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.3", "10.0.0.1 10.0.0.3", true},
		{"::ffff:10.0.0.3", "10.0.0.1 10.0.0.3", false},
		{"10.0.0.3", "10.0.0.3", true},
	} {
		var (
			answer  []netip.Addr
			got     []string
			changed bool
		)
		for s := range strings.FieldsSeq(step.answer) {
			answer = append(answer, netip.MustParseAddr(s))
		}
		known, changed = merge(known, answer)
		for _, k := range known {
			got = append(got, k.addr.String())
		}
		if s := strings.Join(got, " "); s != step.want || changed != step.changed {
			t.Errorf("step %d: %s, changed %v; want %s, %v", i, s, changed, step.want, step.changed)
		}
	}
}

// A list that changes from addresses to a name takes nothing out of service: the name
// is looked up first, and the old list stays while that fails.
func TestListThatChangesToANameEmptiesNothing(t *testing.T) {
	ca := newCA(t)
	a := newAPIServer(t, ca, "a")
	_, port, _ := net.SplitHostPort(a.addr)
	dns, resolver := newDNS(t)
	file := filepath.Join(t.TempDir(), "list")
	writeFile(t, file, a.addr+"\n")
	r := newRig(t, ca, Config{Source: File(file), Resolver: resolver, ResolveEvery: time.Hour})
	r.until(a.addr, "ready")

	writeFile(t, file, "api.example.test:"+port+",name=api\n")
	eventually(t, "the list to be refused", func() bool { return strings.Contains(r.Status().ListErr, "names in it can be looked up") })
	if got := r.names(3); got["a"] != 3 {
		t.Errorf("answers: %v", got)
	}
	dns.says("127.0.0.1")
	r.until("api", "ready")
	if s := r.Status(); s.ListErr != "" {
		t.Error(s.ListErr)
	}
	if err := r.SetBackends([]Backend{{Address: a.addr}}); err != nil {
		t.Error(err)
	}
	dns.says()
	if err := r.SetBackends([]Backend{{Address: "other.example.test:" + port}}); err == nil {
		t.Error("a list without any address is taken from the admin socket")
	}
}

// When DNS is down at a start, the addresses of before serve; without any, the names
// are looked up again soon, and the failure is logged once.
func TestStartWithoutDNS(t *testing.T) {
	ca := newCA(t)
	a := newAPIServer(t, ca, "a")
	_, port, _ := net.SplitHostPort(a.addr)
	dns, resolver := newDNS(t)
	log := &lines{}
	cfg := Config{
		Source: Static([]Backend{{Name: "api", Address: "api.example.test:" + port}}), Resolver: resolver, ResolveEvery: time.Hour,
		StateFile: filepath.Join(t.TempDir(), "backends.json"), Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	r := newRig(t, ca, cfg)
	eventually(t, "names to be looked up again", func() bool { return dns.asked() >= 8 })
	if got := log.with("not resolved"); len(got) != 1 || !strings.Contains(got[0], "it has no address") {
		t.Errorf("logged: %q", got)
	}
	s := r.Status()
	if len(s.Unresolved) != 1 || s.Unresolved[0].Name != "api" || s.Unresolved[0].Address != "api.example.test:"+port || s.Unresolved[0].Err == "" ||
		!strings.Contains(s.Why, "1 in the list cannot be looked up") {
		t.Errorf("status: %+v, %s", s.Unresolved, s.Why)
	}
	dns.says("127.0.0.1")
	r.until("api", "ready")
	if s := r.Status(); len(s.Unresolved) != 0 {
		t.Errorf("status when it is resolved: %+v", s.Unresolved)
	}
	r.stop()

	dns.says()
	r = newRig(t, ca, cfg)
	r.until("api", "ready")
	if got := r.names(2); got["a"] != 2 {
		t.Errorf("answers: %v", got)
	}
	// They are believed until the first answer: another one comes in an hour.
	newAPIServerAt(t, ca, "b", "127.0.0.2:"+port)
	dns.says("127.0.0.2")
	eventually(t, "the new address alone", func() bool {
		b := r.backend("api")
		return b.Address == "127.0.0.2:"+port && b.Usable
	})
}

func TestLookUpsAreNeverTooMany(t *testing.T) {
	const every = 30 * time.Second
	var n name
	now := time.Now()
	for i := range 200 {
		n.plan(now, true, every)
		if d := n.next.Sub(now); d != min(lookUpAgain<<min(i, 10), every) {
			t.Fatalf("pause %v after %d failures", d, i+1)
		}
	}
	if n.plan(now, false, every); n.next.Sub(now) != every {
		t.Errorf("after an answer: %v", n.next.Sub(now))
	}
	if n.plan(now, true, every); n.next.Sub(now) != lookUpAgain {
		t.Errorf("after another failure: %v", n.next.Sub(now))
	}
}

// While one name cannot be looked up, only that one is asked for again; SIGHUP asks for all.
func TestOnlyTheFailedNameIsAskedForAgain(t *testing.T) {
	dns, resolver := newDNS(t)
	dns.says("127.0.0.1")
	dns.fails("bad.example.test.")
	r := newRig(t, nil, Config{
		Source: Static([]Backend{{Name: "good", Address: "good.example.test:1"}, {Name: "bad", Address: "bad.example.test:1"}}),
		Check:  Check{Kind: CheckNone}, Resolver: resolver, ResolveEvery: time.Hour,
	})
	good, bad := dns.askedFor("good.example.test."), dns.askedFor("bad.example.test.")
	if good == 0 || bad == 0 {
		t.Fatalf("at the start there are %d questions for the good name and %d for the bad one", good, bad)
	}
	again := func() { // a round is several questions: for both families, tried again
		t.Helper()
		from := dns.askedFor("bad.example.test.")
		eventually(t, "the bad name to be asked for", func() bool { return dns.askedFor("bad.example.test.") >= from+bad })
	}
	again()
	again()
	if n := dns.askedFor("good.example.test."); n != good {
		t.Errorf("%d questions for the good name, want %d", n, good)
	}
	dns.fails("")
	r.until("bad", "ready")
	good = dns.askedFor("good.example.test.")
	r.Reload()
	eventually(t, "all to be asked for", func() bool { return dns.askedFor("good.example.test.") > good })

	// One that comes with a new list and fails is asked for again soon, too.
	dns.fails("new.example.test.")
	if err := r.SetBackends([]Backend{{Name: "good", Address: "good.example.test:1"}, {Name: "new", Address: "new.example.test:1"}}); err != nil {
		t.Fatal(err)
	}
	dns.fails("")
	r.until("new", "ready")
}

// A list of names that nobody knows is not looked up at every turn of the control
// loop; what was known of names that left the list is forgotten.
func TestUnknownAndForgottenNames(t *testing.T) {
	ca := newCA(t)
	a := newAPIServer(t, ca, "a")
	_, port, _ := net.SplitHostPort(a.addr)
	dns, resolver := newDNS(t)
	dns.says("127.0.0.1")
	named := []Backend{{Name: "api", Address: "api.example.test:" + port}}
	b, err := New(Config{Listeners: files(listener(t, "127.0.0.1:0")), Source: Static(named), Resolver: resolver, Check: quick(ca)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.engine.Close()
	if len(b.names) != 1 {
		t.Errorf("known names %v", b.names)
	}
	b.adopt([]Backend{{Name: "a", Address: a.addr}})
	if len(b.names) != 0 {
		t.Errorf("still known: %v", b.names)
	}
	dns.says() // it fails
	if err := b.admit(t.Context(), named, false); err == nil {
		t.Error("admitted without an address")
	}
	asked := dns.asked()
	for range 5 {
		if err := b.admit(t.Context(), named, false); err == nil || dns.asked() != asked {
			t.Errorf("%v after %d questions, want %d", err, dns.asked(), asked)
		}
	}
	dns.says("127.0.0.1")
	if err := b.admit(t.Context(), named, true); err != nil {
		t.Errorf("asked anew: %v", err)
	}
}
