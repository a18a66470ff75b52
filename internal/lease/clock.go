package lease

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Clock measures the time of a term. It must go on while the machine sleeps and
// must not follow the wall clock: CLOCK_BOOTTIME.
type Clock interface {
	// Now is the time since some fixed moment of this machine's boot.
	Now() time.Duration
	// At returns a channel that is closed once Now is at least t, and a function
	// that frees the timer; it may be called more than once.
	At(t time.Duration) (fired <-chan struct{}, stop func())
}

// Boottime is the machine's CLOCK_BOOTTIME. Its timers fire at once when the
// machine wakes after their time; Go's own timers would count only the time awake.
type Boottime struct{}

// Now reads the clock. It cannot fail on a kernel that runs Go.
func (Boottime) Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("clock_gettime(CLOCK_BOOTTIME): %v", err)) // EINVAL and EFAULT only
	}
	return time.Duration(ts.Nano())
}

// At sets a timerfd. When the process has no file descriptor left it falls back
// on a Go timer that looks at the clock every 50 ms of time awake.
func (b Boottime) At(t time.Duration) (<-chan struct{}, func()) {
	fired := make(chan struct{})
	if b.Now() >= t {
		close(fired)
		return fired, func() {}
	}
	f, err := timerfd(t)
	if err != nil {
		return b.poll(t)
	}
	go func() {
		var n [8]byte
		if _, err := f.Read(n[:]); err == nil && binary.NativeEndian.Uint64(n[:]) > 0 {
			close(fired)
		}
		_ = f.Close()
	}()
	return fired, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) }
}

func timerfd(t time.Duration) (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(t))}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("timerfd_settime: %w", err)
	}
	return os.NewFile(uintptr(fd), "timerfd"), nil
}

func (b Boottime) poll(t time.Duration) (<-chan struct{}, func()) {
	fired, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		for {
			left := t - b.Now()
			if left <= 0 {
				close(fired)
				return
			}
			select {
			case <-time.After(min(left, 50*time.Millisecond)):
			case <-stopped:
				return
			}
		}
	}()
	return fired, sync.OnceFunc(func() { close(stopped) })
}
