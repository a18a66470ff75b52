package link

import (
	"bytes"
	"container/heap"
	"context"
	"math"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSchedule(t *testing.T) {
	at := func(ms ...int) (times []time.Duration) {
		for _, v := range ms {
			times = append(times, time.Duration(v)*time.Millisecond)
		}
		return times
	}
	for name, tc := range map[string]struct {
		shape Shape
		sizes []int // frames that come together, in bytes
		want  []time.Duration
	}{
		"nothing":                        {Shape{}, []int{100}, at(0)},
		"delay":                          {Shape{Delay: 5 * time.Millisecond}, []int{100, 100}, at(5, 5)},
		"all lost":                       {Shape{Loss: 1}, []int{100, 100}, nil},
		"all twice":                      {Shape{Duplicate: 1, Delay: time.Millisecond}, []int{100}, at(1, 1)},
		"all overtake":                   {Shape{Reorder: 1, Delay: time.Second}, []int{100}, at(0)},
		"8 kbit/s is 1 byte/ms":          {Shape{Rate: 8000}, []int{100, 50}, at(100, 150)},
		"the delay follows the line":     {Shape{Rate: 8000, Delay: 7 * time.Millisecond}, []int{10, 10}, at(17, 27)},
		"a full queue loses":             {Shape{Queue: 2, Delay: time.Second}, []int{1, 1, 1}, at(1000, 1000)},
		"what is lost uses no line time": {Shape{Queue: 1, Rate: 8000}, []int{100, 100}, at(100)},
	} {
		t.Run(name, func(t *testing.T) {
			m, start := NewModel(tc.shape), time.Unix(1000, 0)
			var got []time.Duration
			for _, size := range tc.sizes {
				for _, leaves := range m.Schedule(start, size, len(got)) {
					got = append(got, leaves.Sub(start))
				}
			}
			if len(got) != len(tc.want) {
				t.Fatalf("got %v, want %v", got, tc.want)
			}
			for i := range got {
				if got[i] != tc.want[i] {
					t.Fatalf("got %v, want %v", got, tc.want)
				}
			}
		})
	}
}

// Whatever the shape: nothing leaves before it came plus the delay, later than
// delay, jitter and the line's time together, or before an earlier frame, unless
// it overtakes; and the same seed gives the same fate.
func TestScheduleHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Shape{
			Delay:  time.Duration(rapid.IntRange(0, 1000).Draw(t, "delay")) * time.Millisecond,
			Jitter: time.Duration(rapid.IntRange(0, 1000).Draw(t, "jitter")) * time.Millisecond,
			Loss:   rapid.Float64Range(0, 1).Draw(t, "loss"), Duplicate: rapid.Float64Range(0, 1).Draw(t, "duplicate"),
			Seed: rapid.Uint64().Draw(t, "seed"),
		}
		a, b := NewModel(s), NewModel(s)
		now, last := time.Unix(0, 0), time.Time{}
		for range 50 {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "gap")) * time.Millisecond)
			got, again := a.Schedule(now, 100, 0), b.Schedule(now, 100, 0)
			if len(got) != len(again) {
				t.Fatalf("the same seed: %v and %v", got, again)
			}
			for _, at := range got {
				if at.Before(now.Add(s.Delay)) || at.After(now.Add(s.Delay+s.Jitter)) && at.After(last) {
					t.Fatalf("came at %v, leaves at %v with %+v", now, at, s)
				}
				if at.Before(last) {
					t.Fatalf("leaves at %v before the one of %v", at, last)
				}
				last = at
			}
		}
	})
}

func TestLossIsTheShareAskedFor(t *testing.T) {
	m, lost := NewModel(Shape{Loss: 0.2, Seed: 7}), 0
	const frames = 10000
	for range frames {
		if len(m.Schedule(time.Time{}, 1, 0)) == 0 {
			lost++
		}
	}
	if share := float64(lost) / frames; math.Abs(share-0.2) > 0.02 {
		t.Fatalf("lost %v of the frames", share)
	}
}

func TestShapeValidate(t *testing.T) {
	for name, s := range map[string]Shape{
		"loss 1.1 ":      {Loss: 1.1},
		"duplicate -1 ":  {Duplicate: -1},
		"reorder NaN":    {Reorder: math.NaN()},
		"delay -1s":      {Delay: -time.Second},
		"jitter 2m0s":    {Jitter: 2 * time.Minute},
		"rate -1":        {Rate: -1},
		"queue -1":       {Queue: -1},
		"loss 2 is not ": {Loss: 2, Rate: -1},
	} {
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: got %v, want %q", s, err, name)
		}
	}
	if err := (Shape{Loss: 1, Delay: time.Minute}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestShapeString(t *testing.T) {
	if got := (Shape{}).String(); got != "" {
		t.Errorf("a free way is %q", got)
	}
	got := Shape{Delay: time.Second, Jitter: time.Millisecond, Loss: 0.1, Duplicate: 0.2, Reorder: 1, Rate: 9, Seed: 4}.String()
	if got != "delay 1s, jitter 1ms, loss 0.1, duplicate 0.2, reorder 1, rate 9 bit/s" {
		t.Errorf("got %q", got)
	}
}

func TestRules(t *testing.T) {
	table := NewTable()
	table.Cuts[Way{"m2", "m1"}] = true
	table.Slows[Way{"m1", "m3"}] = Shape{Delay: time.Second}
	table.Slows[Way{"m2", "m1"}] = Shape{Delay: time.Second} // cut as well
	got := table.Rules(func(host string) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, host[1] - '0'} })
	const want = `table bridge lab {}
delete table bridge lab
table bridge lab {
	chain forward {
		type filter hook forward priority 0; policy accept;
		iifname "vb-m2" oifname "vb-m1" ether type != arp counter drop
		iifname "vb-m1" oifname "vb-m3" ether type != arp ether daddr 02:00:00:00:00:03 counter drop
	}
}
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if ways := table.Forwarded(); len(ways) != 1 || ways[0] != (Way{"m1", "m3"}) {
		t.Errorf("forwarded: %v", ways)
	}
}

func TestQueueIsInOrder(t *testing.T) {
	var q queue
	start := time.Unix(0, 0)
	for i, second := range []int{3, 1, 2, 1, 3, 1} {
		q.next++
		heap.Push(&q, item{at: start.Add(time.Duration(second) * time.Second), nr: q.next, frame: []byte{byte(second), byte(i)}})
	}
	var got []byte
	for q.Len() > 0 {
		got = append(got, heap.Pop(&q).(item).frame...)
	}
	if want := []byte{1, 1, 1, 3, 1, 5, 2, 2, 3, 0, 3, 4}; !bytes.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// A forwarder over two socket pairs, so that no root and no port is needed.
func TestForwarderCarriesAndStops(t *testing.T) {
	inOuter, in := socketPair(t)
	out, outOuter := socketPair(t)
	f := &Forwarder{in: in, out: out, model: NewModel(Shape{Delay: 10 * time.Millisecond}), changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	sent := append(make([]byte, virtioHeader), "frame"...)
	if _, err := inOuter.Write(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, err := outOuter.Read(got)
	if err != nil || !bytes.Equal(got[:n], sent) {
		t.Fatalf("got %q, %v", got[:n], err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func socketPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}
