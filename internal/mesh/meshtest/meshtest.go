// Package meshtest has a network between nodes of a mesh that tests can cut.
package meshtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// Wire is a network that can be cut between nodes. The zero value is whole.
type Wire struct {
	mu  sync.Mutex
	cut map[string]bool // addresses that are on the other side
}

// Set puts the nodes with the given addresses on the other side; without any,
// the network is whole.
func (w *Wire) Set(addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = map[string]bool{}
	for _, a := range addrs {
		w.cut[a] = true
	}
}

// apart tells whether a and b are on different sides.
func (w *Wire) apart(a, b string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[a] != w.cut[b]
}

// Plug returns what the node at the address self puts around its transport.
func (w *Wire) Plug(self string) func(memberlist.NodeAwareTransport) memberlist.Transport {
	return func(t memberlist.NodeAwareTransport) memberlist.Transport {
		return &plug{NodeAwareTransport: t, wire: w, self: self}
	}
}

// plug is one node's end of a wire.
type plug struct {
	memberlist.NodeAwareTransport
	wire *Wire
	self string
}

func (p *plug) WriteTo(b []byte, addr string) (time.Time, error) {
	return p.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (p *plug) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	if p.wire.apart(p.self, addr.Addr) {
		return time.Now(), nil // lost on the way
	}
	return p.NodeAwareTransport.WriteToAddress(b, addr)
}

func (p *plug) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return p.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (p *plug) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if p.wire.apart(p.self, addr.Addr) {
		return nil, fmt.Errorf("dial %s: cut", addr.Addr)
	}
	return p.NodeAwareTransport.DialAddressTimeout(addr, timeout)
}

// FreeAddress claims a loopback address until the test ends, and returns it with
// port. The claim is a listener on port 7945.
func FreeAddress(tb testing.TB, port int) string {
	tb.Helper()
	for {
		ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		claim, err := net.Listen("tcp", net.JoinHostPort(ip, "7945"))
		if err != nil {
			continue
		}
		tb.Cleanup(func() { _ = claim.Close() })
		return net.JoinHostPort(ip, strconv.Itoa(port))
	}
}

// Log is a buffer that many may write to.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends to the buffer.
func (b *Log) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String is all that was written.
func (b *Log) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
