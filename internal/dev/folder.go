package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
)

// format is the version of a folder's layout. A folder of another format is
// refused: its processes and files mean something else.
const format = 1

// FrontDoorHost is the name of the host that runs only the front door.
const FrontDoorHost = "front-door"

// Info is dev.json: what a folder holds, fixed when it is made.
type Info struct {
	Format    int    `json:"format"`
	Kube      string `json:"kubernetesVersion"`
	Masters   int    `json:"masters"`
	Network   string `json:"network"`   // the masters are .1, .2, … of this /24
	FrontDoor string `json:"frontDoor"` // host:port
}

// Folder is an opened dev folder.
type Folder struct {
	Dir  string
	Info Info

	lastDrain time.Duration // see endAPIServers; default lastDrain
}

// Open reads the folder at dir. It returns an error with a hint when there is
// none, or one of another format.
func Open(dir string) (*Folder, error) {
	data, err := os.ReadFile(infoFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, exitcode.Errorf(exitcode.Failed, "no dev cluster in %s", dir).WithHint("hactl dev up --dir %s", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open dev folder: %w", err)
	}
	f := &Folder{Dir: dir}
	if err := json.Unmarshal(data, &f.Info); err != nil {
		return nil, exitcode.Errorf(exitcode.Failed, "%s/dev.json is damaged: %w", dir, err).WithHint("hactl dev down --purge --dir %s", dir)
	}
	if f.Info.Format != format {
		return nil, exitcode.Errorf(exitcode.Refused, "%s was made by another version of hactl (folder format %d, this hactl knows %d)", dir, f.Info.Format, format).
			WithHint("hactl dev down --purge --dir %s", dir)
	}
	return f, nil
}

func (f *Folder) save() error {
	data, err := json.MarshalIndent(f.Info, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(infoFile(f.Dir), append(data, '\n'), 0o644)
}

func infoFile(dir string) string { return filepath.Join(dir, "dev.json") }

// Kubeconfig is the admin kubeconfig, whose server is the front door.
func (f *Folder) Kubeconfig() string { return filepath.Join(f.Dir, "kubeconfig") }

// MasterNames returns m1 … mN.
func (f *Folder) MasterNames() []string {
	names := make([]string, f.Info.Masters)
	for i := range names {
		names[i] = "m" + strconv.Itoa(i+1)
	}
	return names
}

// Hosts returns the masters and the front door, in the order of starting.
func (f *Folder) Hosts() []string { return append(f.MasterNames(), FrontDoorHost) }

// Layout is the file layout of one host.
func (f *Folder) Layout(host string) layout.Layout {
	return layout.Layout{Root: filepath.Join(f.Dir, host)}
}

// Address returns the loopback address of master number i, counted from 0.
func (f *Folder) Address(i int) string {
	base := netip.MustParseAddr(f.Info.Network).As4()
	base[3] = byte(i + 1)
	return netip.AddrFrom4(base).String()
}

// host checks a name typed by a user.
func (f *Folder) host(name string) error {
	for _, h := range f.Hosts() {
		if h == name {
			return nil
		}
	}
	return exitcode.Errorf(exitcode.Usage, "no master %q here; there are %v", name, f.Hosts()).WithHint("hactl dev status")
}

// ErrLocked is returned when another command is changing the folder.
var ErrLocked = errors.New("another hactl dev command is at work here")

// lock takes the folder's lock, which the kernel gives back when this process
// ends however it ends, so that it is never stale. The returned func releases it.
func lock(dir string) (func(), error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock dev folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(path)
		f.Close()
		return nil, exitcode.Errorf(exitcode.Failed, "%w: process %s holds %s", ErrLocked, pid, path).
			WithHint("wait for it, or end it: kill %s", pid)
	}
	// Another command may have deleted the folder between our opening and locking.
	if now, err := os.Stat(path); err != nil || !sameFile(f, now) {
		f.Close()
		return nil, exitcode.Errorf(exitcode.Failed, "%s was deleted by another command just now", dir).WithHint("the same command again")
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	return func() { f.Close() }, nil
}

func sameFile(f *os.File, other os.FileInfo) bool {
	mine, err := f.Stat()
	return err == nil && os.SameFile(mine, other)
}

// validate checks what a user may have typed.
func (i Info) validate() error {
	var errs []error
	if i.Masters != 1 && i.Masters != 3 && i.Masters != 5 {
		errs = append(errs, fmt.Errorf("--masters %d: want 1, 3 or 5 (an even number survives no more than one fewer)", i.Masters))
	}
	a, err := netip.ParseAddr(i.Network)
	if err != nil || !a.Is4() || !a.IsLoopback() || a.As4()[3] != 0 {
		errs = append(errs, fmt.Errorf("--network %q: want a loopback /24 such as 127.0.1.0", i.Network))
	}
	host, port, err := net.SplitHostPort(i.FrontDoor)
	ip, ipErr := netip.ParseAddr(host)
	n, portErr := strconv.Atoi(port)
	switch {
	case err != nil || ipErr != nil || portErr != nil || n < 1 || n > 65535:
		errs = append(errs, fmt.Errorf("--front-door %q: want ADDRESS:PORT, such as 127.0.0.1:6443", i.FrontDoor))
	case !ip.IsLoopback():
		errs = append(errs, fmt.Errorf("--front-door %q: only a loopback address: the masters behind it are on loopback", i.FrontDoor))
	}
	if err := errors.Join(errs...); err != nil {
		return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("hactl dev up --help")
	}
	return nil
}
