package process

import (
	"fmt"
	"os"
	"strings"
)

// Identity names a process for ever: no other one ever has the same.
type Identity struct {
	Host  string // of the boot of the machine, and of the pid namespace
	PID   int
	Start uint64 // clock ticks from the boot to the process' start
}

// Self is the calling process' identity.
func Self() (Identity, error) {
	host, err := hostIdentity()
	if err != nil {
		return Identity{}, err
	}
	s, err := readStat(os.Getpid())
	if err != nil {
		return Identity{}, fmt.Errorf("read own start time: %w", err)
	}
	return Identity{Host: host, PID: s.PID, Start: s.Start}, nil
}

func hostIdentity() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "", fmt.Errorf("read pid namespace: %w", err)
	}
	return strings.TrimSpace(string(boot)) + "/" + ns, nil
}

// Alive reports whether the process lives on this host, in this pid namespace.
// Of another host's it cannot know, and says true.
func (id Identity) Alive() bool {
	host, err := hostIdentity()
	if err != nil || host != id.Host {
		return true
	}
	s, err := readStat(id.PID)
	return err == nil && s.live() && s.Start == id.Start
}
