package hosts

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// Host is one host of a lab. Its methods may be called concurrently.
type Host struct {
	lab     *Lab
	name    string
	address netip.Addr
}

// Name is the host's name, which every host can resolve.
func (h *Host) Name() string { return h.name }

// Address is the host's address in the lab's network.
func (h *Host) Address() netip.Addr { return h.address }

// PowerOn boots the host, with the disk as it was, and returns when systemd has
// started everything. The error has the end of the console.
func (h *Host) PowerOn(ctx context.Context) error { return h.do(ctx, wire.OpPowerOn) }

// PowerOff ends the host as a power cut does: SIGKILL to everything at once.
// What was written but not synced stays on its disk.
func (h *Host) PowerOff(ctx context.Context) error { return h.do(ctx, wire.OpPowerOff) }

// Freeze stops every process of the host. Its TCP still acknowledges, since the
// kernel is the machine's; cut its ways too for a machine that is wholly silent.
func (h *Host) Freeze(ctx context.Context) error { return h.do(ctx, wire.OpFreeze) }

// Thaw lets a frozen host go on.
func (h *Host) Thaw(ctx context.Context) error { return h.do(ctx, wire.OpThaw) }

// Reboot restarts the host from inside, and returns when systemd has started
// everything again.
func (h *Host) Reboot(ctx context.Context) error {
	before, err := h.Status(ctx)
	if err != nil {
		return err
	}
	// The command may be killed by what it asks for.
	if _, err := h.Exec(ctx, "systemctl", "reboot"); err != nil && ctx.Err() != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := h.Status(ctx)
		if err != nil || now.Boots > before.Boots && now.State == On {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("reboot %s: it is %s: %w", h.name, now.State, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (h *Host) do(ctx context.Context, op string) error {
	_, err := h.lab.call(ctx, wire.Request{Op: op, Host: h.name})
	return err
}

// Status is how the host is.
func (h *Host) Status(ctx context.Context) (HostStatus, error) {
	status, err := h.lab.Status(ctx)
	if err != nil {
		return HostStatus{}, err
	}
	for _, s := range status.Hosts {
		if s.Name == h.name {
			return s, nil
		}
	}
	return HostStatus{}, fmt.Errorf("lab %s: no host %q", h.lab.Name(), h.name)
}

// Console returns everything that the host has written to its console.
func (h *Host) Console() (string, error) {
	data, err := os.ReadFile(filepath.Join(h.lab.dir, h.name, "console"))
	return string(data), err
}

// ExecError is a command that ran in a host and failed.
type ExecError struct {
	Host   string
	Args   []string
	Code   int // exit code; -1 if it was ended by a signal
	Stderr string
	Err    error
}

func (e *ExecError) Error() string {
	return fmt.Sprintf("%s: %q: %v: %s", e.Host, e.Args, e.Err, bytes.TrimSpace([]byte(e.Stderr)))
}

// Unwrap returns the cause: an *exec.ExitError or the context's.
func (e *ExecError) Unwrap() error { return e.Err }

// Exec runs a command in the host as root and returns what it wrote to its
// standard output, also when it failed. The error is an *ExecError, or says that
// the host is off. In a frozen host it waits, until ctx ends.
func (h *Host) Exec(ctx context.Context, args ...string) (string, error) {
	return h.exec(ctx, nil, args...)
}

func (h *Host) exec(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd, err := h.Command(ctx, args...)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), &ExecError{Host: h.name, Args: args, Code: cmd.ProcessState.ExitCode(), Stderr: stderr.String(), Err: err}
	}
	return stdout.String(), nil
}

// enter is run by a shell in the lab's namespaces: it puts itself among the
// host's processes, so that it is frozen and killed with them, and enters the
// host.
const enter = `echo $$ >"$1" && exec nsenter -t "$2" -m -u -i -n -p -C -- env -i ` +
	`PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" "${@:3}"`

// Command prepares a command in the host, for the caller to give it streams and
// to start it. It and what it started is killed when ctx ends.
func (h *Host) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	if len(args) == 0 {
		return nil, errors.New("no command given")
	}
	status, err := h.Status(ctx)
	if err != nil {
		return nil, err
	}
	if status.Leader == 0 {
		return nil, fmt.Errorf("%s: %q: the host is %s", h.name, args, status.State)
	}
	procs := path.Join("/sys/fs/cgroup", h.lab.state.Cgroup, h.name, "payload/init.scope/cgroup.procs")
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"-t", strconv.Itoa(h.lab.state.KeeperPID), "-m", "-p", "-n", "--",
		"bash", "-c", enter, "enter", procs, strconv.Itoa(status.Leader),
	}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // a daemon that keeps the streams is not waited for
	return cmd, nil
}

// WriteFile writes a file of the host, and the folders above it. It replaces an
// old one at once.
func (h *Host) WriteFile(ctx context.Context, name string, data []byte, perm fs.FileMode) error {
	const script = `set -e; mkdir -p "$(dirname "$1")"; t=$(mktemp "$1.XXXXXX"); cat >"$t"; chmod "$2" "$t"; mv "$t" "$1"`
	_, err := h.exec(ctx, bytes.NewReader(data), "bash", "-c", script, "write", name, fmt.Sprintf("%o", perm.Perm()))
	return err
}

// ReadFile reads a file of the host.
func (h *Host) ReadFile(ctx context.Context, name string) ([]byte, error) {
	out, err := h.Exec(ctx, "cat", "--", name)
	return []byte(out), err
}

// CopyTo copies a file or folder of the machine into the host, where it is dst
// afterwards. Modes are kept, owners become root.
func (h *Host) CopyTo(ctx context.Context, src, dst string) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(w, src, path.Base(dst))) }()
	_, err := h.exec(ctx, r, "bash", "-c", `mkdir -p "$1" && exec tar -x -C "$1" --no-same-owner`, "copy", path.Dir(dst))
	_ = r.Close()
	if err != nil {
		return fmt.Errorf("copy %s: %w", src, err)
	}
	return nil
}

// writeTar writes src as an archive in which it is called name.
func writeTar(w io.Writer, src, name string) error {
	archive := tar.NewWriter(w)
	err := filepath.WalkDir(src, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var target string
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(file); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, file)
		if err != nil {
			return err
		}
		header.Name = path.Join(name, filepath.ToSlash(rel))
		if err := archive.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(archive, f)
		return err
	})
	return errors.Join(err, archive.Close())
}
