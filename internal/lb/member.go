package lb

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/lb/dataplane"
	"github.com/hactl/hactl/internal/lb/pool"
	"github.com/hactl/hactl/internal/lb/probe"
)

// member is one backend at one address while it is in the list, and after that
// until its last connection has ended. Balancer.mu guards it.
type member struct {
	backend Backend // with an address that needs no resolving
	host    string  // the address as written, when it is a name
	listed  string  // the backend's name in the list
	target  *dataplane.Target
	prober  *probe.Prober
	stop    context.CancelFunc // ends the prober

	health   pool.Health
	drained  bool      // by an operator
	told     time.Time // when it was drained
	removed  time.Time // when it left the list; zero: it is in it
	returned time.Time // when it last became ready after it had not been
	last     probe.Result
	lastAt   time.Time
	failures int       // bad answers in a row
	good     time.Time // when it last said that it is ready
	silent   time.Time // when the first unanswered probe in a row was sent; zero: the last one was answered
	cutLater bool      // it hangs, but nothing else was ready

	doubted    time.Time     // since when it is distrusted; zero: it is not
	distrusted time.Time     // until when the data path's experience outweighs the probes
	distrust   time.Duration // how long the next time
}

func newTarget(b Backend) (*dataplane.Target, error) {
	if path, ok := strings.CutPrefix(b.Address, "unix:"); ok {
		return dataplane.NewUnixTarget(b.Name, path)
	}
	ap, err := netip.ParseAddrPort(b.Address)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", b.Name, err)
	}
	return dataplane.NewTarget(b.Name, ap)
}

func (b *Balancer) check(be Backend) (probe.Check, func()) {
	network, address := "tcp", be.Address
	if path, ok := strings.CutPrefix(be.Address, "unix:"); ok {
		network, address = "unix", path
	}
	k := b.cfg.Check
	switch k.Kind {
	case CheckHTTPS:
		return probe.HTTPS(probe.HTTPSConfig{
			Network: network, Address: address, Path: k.Path, Name: k.Name, Roots: k.Roots, Certificate: k.Certificate, Token: k.Token,
		})
	case CheckTCP:
		return probe.TCP(network, address), nil
	default:
		return probe.None(), nil
	}
}

// usable: new connections should go there.
func (m *member) usable(now time.Time) bool {
	return m.health.State == pool.Ready && !m.drained && m.removed.IsZero() && !now.Before(m.distrusted)
}

// fails: it fails connections one after the other. Silence counts only when
// nothing came from it on any connection within quiet: else it is overloaded, and
// so will be the others if they get its share.
func (m *member) fails(now time.Time, quiet time.Duration) bool {
	broken, silent := m.target.Streak()
	return broken >= distrustStreak || silent >= distrustStreak && now.Sub(m.target.Heard()) > quiet
}

// ramp is the share of its weight that a backend gets since it returned.
func (m *member) ramp(now time.Time, over time.Duration) float64 {
	if over <= 0 || m.returned.IsZero() {
		return 1
	}
	return min(1, max(0.1, float64(now.Sub(m.returned))/float64(over)))
}

// is says whether people mean m by name: its name, its address, or the name or the
// host name and port that it has in the list, which several may share.
func (m *member) is(name string) bool {
	return name != "" && (m.backend.Name == name || m.backend.Address == name || m.host == name || m.listed == name)
}

// key stays the same however many addresses the backend's host name has.
func (m *member) key() string { return m.listed + " " + m.backend.Address }

const (
	distrustFirst  = 5 * time.Second
	distrustMost   = time.Minute
	distrustStreak = 3
	slowAfter      = 30 * time.Second // an ejected backend is asked less often after this
	slowFactor     = 4
)

func inode(fi os.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
