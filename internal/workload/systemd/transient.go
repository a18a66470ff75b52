package systemd

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Helper is a program that runs beside this process in a unit of its own, so that
// whatever stops, freezes or kills our unit does not reach it.
type Helper struct {
	Unit   string // its name, without ".service"; unique
	Text   string // what it is, for people
	Exec   []string
	Stdin  *os.File // the program's own; nil: /dev/null
	Stdout *os.File
	Stderr *os.File // nil: the journal
}

// StartHelper starts it, and returns when it runs.
func (b *Bound) StartHelper(ctx context.Context, h Helper) error { return b.m.StartHelper(ctx, h) }

// StartHelper starts it, and returns when it runs.
func (m *Manager) StartHelper(ctx context.Context, h Helper) error {
	conn, err := m.bus(ctx)
	if err != nil {
		return err
	}
	props := []dbus.Property{
		dbus.PropDescription(h.Text),
		dbus.PropExecStart(h.Exec, false),
		dbus.PropType("exec"),
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
		{Name: "OOMScoreAdjust", Value: godbus.MakeVariant(int32(-900))},
		{Name: "Nice", Value: godbus.MakeVariant(int32(-10))},
	}
	for name, f := range map[string]*os.File{"StandardInput": h.Stdin, "StandardOutput": h.Stdout, "StandardError": h.Stderr} {
		if f != nil {
			// A copy: Fd would make the file blocking for its other users here.
			fd, err := dup(f)
			if err != nil {
				return fmt.Errorf("start %s: %w", h.Unit, err)
			}
			defer syscall.Close(fd)
			props = append(props, dbus.Property{Name: name + "FileDescriptor", Value: godbus.MakeVariant(godbus.UnixFD(fd))})
		}
	}
	if dir, err := os.Getwd(); err == nil {
		props = append(props, dbus.Property{Name: "WorkingDirectory", Value: godbus.MakeVariant(dir)})
	}
	result := make(chan string, 1)
	if _, err := conn.StartTransientUnitContext(ctx, FileName(h.Unit), "fail", props, result); err != nil {
		return fmt.Errorf("start %s: %w", h.Unit, err)
	}
	select {
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("start %s: job %s; see journalctl -u %s", h.Unit, r, FileName(h.Unit))
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("start %s: no result yet: %w", h.Unit, ctx.Err())
	}
}

func dup(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(from uintptr) {
		r, _, errno := syscall.Syscall(syscall.SYS_FCNTL, from, syscall.F_DUPFD_CLOEXEC, 3)
		if fd = int(r); errno != 0 {
			err = errno
		}
	}); cerr != nil {
		return 0, cerr
	}
	return fd, err
}

// Executable is the path of this process' program, also when it was replaced.
func Executable() (string, error) {
	path, err := os.Executable()
	return strings.TrimSuffix(path, " (deleted)"), err
}
