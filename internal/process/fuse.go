package process

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Fuse is a timer of the kernel's that ends the calling process by SIGKILL. It
// needs no instruction of the process: one that is stopped, starved or frozen
// when its time comes executes nothing any more, not even what it was about to do
// after a look at the clock. (A process in the freezer of cgroup v1 dies when it
// is thawed, before its first instruction; everywhere else it dies at once.)
type Fuse struct{ id int32 }

// NewFuse makes a fuse that is not lit. It lasts as long as the process; a
// program that the process turns into by exec does not inherit it. It errs only
// when the user's limit of queued signals (RLIMIT_SIGPENDING) is used up.
func NewFuse() (*Fuse, error) {
	// struct sigevent, 64 bytes, on the heap for the kernel to read.
	event := &struct {
		value          uintptr
		signal, notify int32
		_              [12]int32
	}{signal: int32(unix.SIGKILL), notify: sigevSignal}
	f := new(Fuse)
	_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(event)), uintptr(unsafe.Pointer(&f.id)))
	if errno != 0 {
		return nil, fmt.Errorf("timer_create: %w", errno)
	}
	return f, nil
}

const sigevSignal = 0 // SIGEV_SIGNAL: the process, not a thread, gets the signal

// Light has the process killed at the moment t of CLOCK_BOOTTIME, at once if that
// has passed, instead of at an earlier call's. Zero puts the fuse out.
func (f *Fuse) Light(t time.Duration) error {
	spec := &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(t))}
	_, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(f.id), unix.TFD_TIMER_ABSTIME, uintptr(unsafe.Pointer(spec)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("timer_settime: %w", errno)
	}
	return nil
}
