package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/hactl/hactl/test/hosts/internal/link"
	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// network is the bridge, its rules, and the forwarders of slow ways.
type network struct {
	procs *children
	log   *slog.Logger
	macs  map[string]net.HardwareAddr // by host, the observer included

	mu         sync.Mutex
	table      *link.Table
	forwarders map[link.Way]*forwarder
}

// forwarder is a running Forwarder and what it was made for.
type forwarder struct {
	from, to int // interface indexes
	shape    link.Shape
	stop     context.CancelFunc
	done     chan struct{}
}

func newNetwork(ctx context.Context, hosts []wire.Host, procs *children, log *slog.Logger) (*network, error) {
	observer := wire.Address(0)
	n := &network{
		procs: procs, log: log, table: link.NewTable(), forwarders: map[link.Way]*forwarder{},
		macs: map[string]net.HardwareAddr{wire.Observer: wire.MAC(observer)},
	}
	for _, h := range hosts {
		n.macs[h.Name] = wire.MAC(h.Address)
	}
	for path, value := range map[string]string{
		"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1",
		"net/bridge/bridge-nf-call-iptables": "0", "net/bridge/bridge-nf-call-ip6tables": "0", "net/bridge/bridge-nf-call-arptables": "0",
	} {
		err := os.WriteFile("/proc/sys/"+path, []byte(value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("the lab's network: %w", err)
		}
	}
	script := fmt.Sprintf(`link set dev lo up
link add %[1]s type bridge mcast_snooping 0
link set dev %[1]s up
link add %[2]s address %[3]s type veth peer name %[4]s
link set dev %[4]s master %[1]s up
link set dev %[2]s up
address add %[5]s/%[6]d dev %[2]s
`, wire.Bridge, wire.Observer, wire.MAC(observer), link.Port(wire.Observer), observer, wire.Network().Bits())
	if err := procs.run(ctx, script, "ip", "-batch", "-"); err != nil {
		return nil, fmt.Errorf("the lab's network: %w", err)
	}
	return n, nil
}

func (n *network) cut(ctx context.Context, ways []link.Way) error {
	return n.change(ctx, ways, func(w link.Way) { n.table.Cuts[w] = true })
}

func (n *network) slow(ctx context.Context, ways []link.Way, shape link.Shape) error {
	if err := shape.Validate(); err != nil {
		return fmt.Errorf("slow: %w", err)
	}
	return n.change(ctx, ways, func(w link.Way) {
		s := shape
		// Both directions of a pair draw from different seeds.
		if w.From > w.To {
			s.Seed = ^s.Seed
		}
		n.table.Slows[w] = s
	})
}

func (n *network) heal(ctx context.Context, ways []link.Way) error {
	if len(ways) == 0 {
		n.mu.Lock()
		ways = slices.AppendSeq(slices.Collect(maps.Keys(n.table.Cuts)), maps.Keys(n.table.Slows))
		n.mu.Unlock()
	}
	return n.change(ctx, ways, func(w link.Way) {
		delete(n.table.Cuts, w)
		delete(n.table.Slows, w)
	})
}

// change changes the table for each way, and the rules and forwarders with it.
func (n *network) change(ctx context.Context, ways []link.Way, f func(link.Way)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range ways {
		for _, host := range []string{w.From, w.To} {
			if n.macs[host] == nil {
				return fmt.Errorf("no host %q in this lab", host)
			}
		}
		if w.From == w.To {
			return fmt.Errorf("%s: a host's way to itself does not pass the network", w)
		}
	}
	for _, w := range ways {
		f(w)
	}
	if err := n.procs.run(ctx, n.table.Rules(func(h string) net.HardwareAddr { return n.macs[h] }), "nft", "-f", "-"); err != nil {
		return fmt.Errorf("rules of the lab's network: %w", err)
	}
	n.reconcile()
	return nil
}

// portsChanged is called when a host has got a new port.
func (n *network) portsChanged() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reconcile()
}

// reconcile lets exactly the forwarders run that the table asks for. A way whose
// port is missing (the host is off) gets its forwarder when the port comes.
func (n *network) reconcile() {
	wanted := n.table.Forwarded()
	for way, f := range n.forwarders {
		from, to := index(way.From), index(way.To)
		if !slices.Contains(wanted, way) || f.from != from || f.to != to || f.shape != n.table.Slows[way] {
			f.stop()
			<-f.done
			delete(n.forwarders, way)
		}
	}
	for _, way := range wanted {
		from, to := index(way.From), index(way.To)
		if n.forwarders[way] != nil || from == 0 || to == 0 {
			continue
		}
		if err := n.forward(way, from, to); err != nil {
			n.log.Error("slow way carries nothing", "way", way.String(), "err", err)
		}
	}
}

func (n *network) forward(way link.Way, from, to int) error {
	shape := n.table.Slows[way]
	fwd, err := link.NewForwarder(way, n.macs[way.To], shape)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &forwarder{from: from, to: to, shape: shape, stop: stop, done: make(chan struct{})}
	n.forwarders[way] = f
	go func() {
		defer close(f.done)
		if err := fwd.Run(ctx); err != nil {
			n.log.Error("slow way carries nothing more", "way", way.String(), "err", err)
		}
	}()
	return nil
}

func (n *network) status() (cuts []link.Way, slows []wire.SlowStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for w := range n.table.Cuts {
		cuts = append(cuts, w)
	}
	for w, s := range n.table.Slows {
		slows = append(slows, wire.SlowStatus{Way: w, Shape: s})
	}
	slices.SortFunc(cuts, link.Compare)
	slices.SortFunc(slows, func(a, b wire.SlowStatus) int { return link.Compare(a.Way, b.Way) })
	return cuts, slows
}

// index is the number of a host's port, or 0.
func index(host string) int {
	iface, err := net.InterfaceByName(link.Port(host))
	if err != nil {
		return 0
	}
	return iface.Index
}
