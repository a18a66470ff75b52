package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// mounts makes the lab's view of the file system. The sources are opened before
// anything hides them.
func mounts(dir string, plan wire.Plan) error {
	type bind struct {
		source, target string
		fd             int
		readOnly       bool
	}
	binds := []bind{{source: dir, target: labPath}, {source: plan.Tree, target: treePath, readOnly: true}}
	for i, b := range plan.Binds {
		binds = append(binds, bind{source: b.Source, target: filepath.Join(bindsPath, strconv.Itoa(i))})
	}
	for i := range binds {
		fd, err := unix.Open(binds[i].source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: binds[i].source, Err: err}
		}
		defer unix.Close(fd)
		binds[i].fd = fd
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"cgroup2", cgroupFS, "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	for _, b := range binds {
		if err := bindMount(b.fd, b.target, b.readOnly); err != nil {
			return fmt.Errorf("bind %s: %w", b.source, err)
		}
	}
	return unix.Sethostname([]byte(plan.Name))
}

func bindMount(fd int, target string, readOnly bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if !readOnly {
		return nil
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}
