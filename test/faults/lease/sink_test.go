//go:build faults || lab

package lease

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sink records which token wrote when.
type sink struct {
	ln net.Listener
	mu sync.Mutex
	in []arrival
}

// arrival is a line and when the kernel received it. When the sink came to read it
// says nothing: on a busy machine one connection waits longer than another.
type arrival struct {
	token int64
	at    time.Duration // since 1970; the machine's wall clock is left alone by all tests
}

func newSink(t *testing.T, ln net.Listener) *sink {
	s := &sink{ln: ln}
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(c) })
			wg.Go(func() { <-over; _ = c.Close() }) // a gate may live on
		}
	})
	t.Cleanup(func() { close(over); _ = ln.Close(); wg.Wait() })
	return s
}

func (s *sink) addr() string { return s.ln.Addr().String() }

func (s *sink) serve(c net.Conn) {
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) }); err != nil || set != nil {
		panic(fmt.Sprintf("no time stamps: %v, %v", err, set)) // the judge would be blind
	}
	var rest string // of a line
	for buf := make([]byte, 4096); ; {
		n, at, err := stamped(raw, buf)
		if n <= 0 || err != nil {
			return // what is left in rest was cut
		}
		lines := strings.Split(rest+string(buf[:n]), "\n")
		rest = lines[len(lines)-1]
		s.mu.Lock()
		for _, line := range lines[:len(lines)-1] {
			if token, err := strconv.ParseInt(line, 10, 64); err == nil {
				s.in = append(s.in, arrival{token, at})
			}
		}
		s.mu.Unlock()
	}
}

// stamped reads, and tells when the kernel received the last of what it read. All of
// it came over one connection, so it is all of one token.
func stamped(raw syscall.RawConn, buf []byte) (n int, at time.Duration, err error) {
	oob := make([]byte, 64)
	var oobn int
	failed := raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, err = unix.Recvmsg(int(fd), buf, oob, 0)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if err := cmp.Or(failed, err); err != nil || n == 0 {
		return n, 0, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, 0, err
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			sec, nsec := binary.NativeEndian.Uint64(m.Data), binary.NativeEndian.Uint64(m.Data[8:])
			return n, time.Duration(sec)*time.Second + time.Duration(nsec), nil
		}
	}
	return n, time.Duration(time.Now().UnixNano()), nil // the first bytes, before the option was set
}

// forget drops all but the newest token: what is older is late for ever.
func (s *sink) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := arrival{}
	for _, a := range s.in {
		if a.token >= newest.token {
			newest = a
		}
	}
	s.in = s.in[:0]
	if newest.token > 0 {
		s.in = append(s.in, newest)
	}
}

func (s *sink) arrivals() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]arrival(nil), s.in...)
}
