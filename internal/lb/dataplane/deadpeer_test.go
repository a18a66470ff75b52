package dataplane

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cutOff drops every packet that comes for c, as a dead machine or a silent
// path does: nothing is acknowledged any more.
func cutOff(t *testing.T, c *net.TCPConn) {
	t.Helper()
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	})
	if err := errors.Join(err, serr); err != nil {
		t.Fatal(err)
	}
}

// established returns both ends of a connection through an engine with the
// shortest DeadAfter.
func established(t *testing.T) (p *plane, client, backend *net.TCPConn) {
	t.Helper()
	accepted := make(chan *net.TCPConn, 1)
	over := make(chan struct{})
	target := server(t, "a", func(c *net.TCPConn) {
		accepted <- c
		<-over
	})
	t.Cleanup(func() { close(over) })
	p = start(t, Config{Router: &inOrder{targets: []*Target{target}}, DeadAfter: 2 * time.Second})
	client = p.dial(t)
	backend = <-accepted
	_, _ = backend.Write([]byte("x"))
	read(t, client, 1)
	return p, client, backend
}

func TestSilentPathUnderARequestIsFound(t *testing.T) {
	t.Parallel()
	p, client, backend := established(t)
	cutOff(t, backend)
	_, _ = client.Write([]byte("request"))
	if err := ended(t, client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client sees %v, want a reset", err)
	}
	if n := p.Stats().DeadPeer; n > 1 { // 0 when keep-alive was faster
		t.Errorf("%d dead peers", n)
	}
}

func TestSilentPathUnderAnIdleConnectionIsFound(t *testing.T) {
	t.Parallel()
	_, client, backend := established(t)
	cutOff(t, backend)
	if err := ended(t, client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client sees %v, want a reset", err)
	}
}

// Keep-alive gives up no later than after the time that it was made for.
func TestKeepAliveKeepsItsTime(t *testing.T) {
	for after := 2 * time.Second; after <= 2*time.Minute; after += time.Second {
		v := map[int]int32{}
		for _, o := range deadPeerOpts(after) {
			v[o.opt] = o.value
		}
		idle, interval, count := v[unix.TCP_KEEPIDLE], v[unix.TCP_KEEPINTVL], v[unix.TCP_KEEPCNT]
		if took := time.Duration(idle+interval*count) * time.Second; took > after || count < 1 || interval < 1 {
			t.Errorf("%v: %d s, then %d probes of %d s each", after, idle, count, interval)
		}
	}
}

// A backend that acknowledges but does not read, for much longer than DeadAfter,
// is alive (TCP_USER_TIMEOUT would end this connection).
func TestPeerThatDoesNotReadIsAlive(t *testing.T) {
	t.Parallel()
	p, client, backend := established(t)
	const size = 24 << 20 // more than all buffers on the way
	sent := make(chan error, 1)
	go func() {
		_, err := client.Write(make([]byte, size))
		sent <- err
	}()
	passed := func() int { // sweeps so far
		got := make(chan int, 1)
		p.loops[0].post(func(l *loop) { got <- l.sweeps })
		return <-got
	}
	begin := passed()
	eventually(t, "eight sweeps, four times DeadAfter", func() bool { return passed() >= begin+8 })
	_ = backend.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.CopyN(io.Discard, backend, size); err != nil {
		t.Errorf("after the pause: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
