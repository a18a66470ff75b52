package singleton

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/process"
)

// foreground reports whether tty is the terminal of which this process' group is
// the foreground: then it belongs to whoever typed the command line, and the work
// gets it.
func foreground(tty *os.File) bool {
	if tty == nil {
		return false
	}
	group, err := terminalGroup(tty)
	return err == nil && group == syscall.Getpgrp()
}

func terminalGroup(tty *os.File) (group int, err error) {
	err = control(tty, func(fd int) (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return group, err
}

func control(f *os.File, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = call(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// takeTerminal makes our group the terminal's foreground again. The kernel would
// stop a background group that does so, unless the signal is blocked.
func takeTerminal(tty *os.File) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block, old unix.Sigset_t
	block.Val[0] = 1 << (uint(unix.SIGTTOU) - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, &old); err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	err := control(tty, func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, syscall.Getpgrp()) })
	if err != nil {
		err = fmt.Errorf("terminal: %w", err)
	}
	return errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil))
}

// keepGoing continues the child whenever its terminal stopped it (Ctrl-Z): a shell
// cannot, since the child is none of its jobs, and the lock would be held for
// nothing. A SIGSTOP stays what it is. It ends with the child.
func keepGoing(child *process.Process) {
	for told := false; ; {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, child.PID(), &info, unix.WSTOPPED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		// si_status of siginfo_t, which the package does not name: the seventh word.
		switch syscall.Signal((*[8]int32)(unsafe.Pointer(&info))[6]) {
		case syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			_ = child.SignalGroup(syscall.SIGCONT)
			if !told {
				told = true
				fmt.Fprintln(os.Stderr, "podmaster: Ctrl-Z would stop the work and keep the lock: it goes on. Ctrl-C ends it.")
			}
		}
	}
}
