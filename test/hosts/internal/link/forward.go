package link

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Forwarder carries the frames of one slow way.
type Forwarder struct {
	in, out *os.File
	model   *Model

	mu      sync.Mutex
	waiting queue
	changed chan struct{} // has room for one: the head of waiting may be another
}

// maxFrame is a segmentation-offload frame of 64 KiB with its Ethernet header
// and the virtio header before it.
const (
	virtioHeader = 10
	maxFrame     = 64<<10 + 256
	socketBuffer = 8 << 20 // bytes; frames beyond it are lost before they are seen
)

// NewForwarder opens the two ports of way in the calling thread's network
// namespace. What Rules drops for it is carried.
func NewForwarder(way Way, mac net.HardwareAddr, shape Shape) (*Forwarder, error) {
	in, err := packetSocket(Port(way.From), true)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", Port(way.From), err)
	}
	if err := onlyTo(in, mac); err != nil {
		_ = in.Close()
		return nil, fmt.Errorf("filter on %s: %w", Port(way.From), err)
	}
	out, err := packetSocket(Port(way.To), false)
	if err != nil {
		_ = in.Close()
		return nil, fmt.Errorf("send on %s: %w", Port(way.To), err)
	}
	return &Forwarder{in: in, out: out, model: NewModel(shape), changed: make(chan struct{}, 1)}, nil
}

// Run carries frames until ctx ends or a port is gone, and closes both ports.
// Frames that wait at the end are lost.
func (f *Forwarder) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = f.in.Close(); _ = f.out.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { f.send(ctx) })
	err := f.receive()
	cancel()
	wg.Wait()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func (f *Forwarder) receive() error {
	buf := make([]byte, virtioHeader+maxFrame)
	for {
		n, err := f.in.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue // the port is not up yet, or goes away: then the next read tells
		}
		if err != nil {
			return err
		}
		if n <= virtioHeader {
			continue
		}
		frame := append([]byte(nil), buf[:n]...)
		f.mu.Lock()
		for _, at := range f.model.Schedule(time.Now(), n-virtioHeader, f.waiting.Len()) {
			f.waiting.next++
			heap.Push(&f.waiting, item{at: at, nr: f.waiting.next, frame: frame})
		}
		f.mu.Unlock()
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
}

func (f *Forwarder) send(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		for _, frame := range f.due(time.Now(), &wait) {
			_, _ = f.out.Write(frame) // a port that is down loses frames, as a cable does
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-f.changed:
		case <-timer.C:
		}
	}
}

// due takes the frames whose time has come, and sets wait to the time until the
// next one if there is one.
func (f *Forwarder) due(now time.Time, wait *time.Duration) (frames [][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.waiting.Len() > 0 {
		if left := f.waiting.items[0].at.Sub(now); left > 0 {
			*wait = left
			break
		}
		frames = append(frames, heap.Pop(&f.waiting).(item).frame)
	}
	return frames
}

type item struct {
	at    time.Time
	nr    uint64 // keeps frames of the same time in order
	frame []byte
}

// queue is a heap of frames by time.
type queue struct {
	items []item
	next  uint64
}

func (q *queue) Len() int { return len(q.items) }
func (q *queue) Less(i, j int) bool {
	if !q.items[i].at.Equal(q.items[j].at) {
		return q.items[i].at.Before(q.items[j].at)
	}
	return q.items[i].nr < q.items[j].nr
}
func (q *queue) Swap(i, j int) { q.items[i], q.items[j] = q.items[j], q.items[i] }
func (q *queue) Push(x any)    { q.items = append(q.items, x.(item)) }
func (q *queue) Pop() any {
	last := q.items[len(q.items)-1]
	q.items = q.items[:len(q.items)-1]
	return last
}

// packetSocket opens a raw socket on a port. With the virtio header, checksums
// and segments that the kernel has left for later stay so on the other side.
func packetSocket(port string, receive bool) (*os.File, error) {
	iface, err := net.InterfaceByName(port)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	set := func(level, opt, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, opt, value))
		}
	}
	set(unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	addr := &unix.SockaddrLinklayer{Ifindex: iface.Index}
	if receive {
		set(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
		set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
		addr.Protocol = binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, addr))
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), port), nil
}

// onlyTo lets the kernel pass only frames whose destination is mac, and none of
// address resolution.
func onlyTo(sock *os.File, mac net.HardwareAddr) error {
	if len(mac) != 6 {
		return fmt.Errorf("hardware address %q has not 6 bytes", mac.String())
	}
	const loadWord, loadHalf, jumpEqual, give = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: loadWord, K: 0},
		{Code: jumpEqual, K: binary.BigEndian.Uint32(mac[:4]), Jf: 5},
		{Code: loadHalf, K: 4},
		{Code: jumpEqual, K: uint32(binary.BigEndian.Uint16(mac[4:])), Jf: 3},
		{Code: loadHalf, K: 12},
		{Code: jumpEqual, K: unix.ETH_P_ARP, Jt: 1},
		{Code: give, K: maxFrame},
		{Code: give, K: 0},
	}
	return unix.SetsockoptSockFprog(int(sock.Fd()), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
