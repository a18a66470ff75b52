package keeper

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// makeDisk mounts the host's disk: the base tree under what the host writes.
func (m *machine) makeDisk() error {
	var names strings.Builder
	names.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	fmt.Fprintf(&names, "%s %s\n", wire.Address(0), wire.Observer)
	for _, h := range m.plan.Hosts {
		fmt.Fprintf(&names, "%s %s\n", h.Address, h.Name)
	}
	for _, dir := range []string{"upper/etc", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o755); err != nil {
			return fmt.Errorf("disk of %s: %w", m.Name, err)
		}
	}
	for name, content := range map[string]string{
		"hostname":   m.Name + "\n",
		"hosts":      names.String(),
		"machine-id": m.machineID() + "\n",
		"hactl-lab":  fmt.Sprintf("ADDRESS=%s/%d\nMAC=%s\n", m.Address, wire.Network().Bits(), wire.MAC(m.Address)),
	} {
		if err := os.WriteFile(filepath.Join(m.dir, "upper/etc", name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("disk of %s: %w", m.Name, err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%[2]s/upper,workdir=%[2]s/work", treePath, m.dir)
	if err := unix.Mount("overlay", m.root(), "overlay", 0, options); err != nil {
		return fmt.Errorf("disk of %s: mount overlay: %w", m.Name, err)
	}
	return nil
}

func (m *machine) root() string { return filepath.Join(m.dir, "root") }

func (m *machine) machineID() string {
	sum := sha256.Sum256([]byte(m.plan.Cgroup + "/" + m.Name))
	return hex.EncodeToString(sum[:16])
}

// nspawnArgs is the command line of the host's container.
func (m *machine) nspawnArgs() []string {
	args := []string{
		"--quiet", "--settings=no", "--register=no", "--keep-unit", "--boot", "--notify-ready=yes",
		"--directory=" + m.root(), "--machine=" + m.Name, "--hostname=" + m.Name, "--uuid=" + m.machineID(),
		"--network-bridge=" + wire.Bridge, "--console=read-only", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
	}
	for i, b := range m.plan.Binds {
		option := "--bind-ro="
		if b.Writable {
			option = "--bind="
		}
		args = append(args, option+filepath.Join(bindsPath, strconv.Itoa(i))+":"+b.Target)
	}
	return append(args, m.plan.NspawnArgs...)
}

func (m *machine) console() string { return filepath.Join(m.dir, "console") }

func (m *machine) consoleTail() string {
	data, _ := os.ReadFile(m.console())
	return string(data[max(0, len(data)-2000):])
}
