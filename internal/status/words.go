package status

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// hints are the next commands to type, on a real master or in hactl dev.
type hints struct {
	dev bool
	dir string
}

// devCommand is a command of hactl dev for this cluster's folder.
func (h hints) devCommand(verb string, args ...string) string {
	words := []string{"hactl dev", verb}
	if h.dir != "" {
		words = append(words, "--dir", h.dir)
	}
	return strings.Join(append(words, args...), " ")
}

// process says where to look when a unit of a master is not well.
func (h hints) process(master, unit string) string {
	if h.dev {
		return h.devCommand("logs", master, unit)
	}
	return fmt.Sprintf("on %s: journalctl -u %s -n 50", master, unit)
}

// anyProcess is process for the first master.
func (h hints) anyProcess(r *Report, unit string) string {
	if len(r.Masters) == 0 {
		return ""
	}
	return h.process(r.Masters[0].Name, unit)
}

// start says how to get a silent master back.
func (h hints) start(master string) string {
	if h.dev {
		return h.devCommand("start", master)
	}
	return fmt.Sprintf("ssh %s systemctl list-units --failed", master)
}

func (h hints) quorum(lost []string) string {
	switch {
	case h.dev && len(lost) > 0:
		return h.devCommand("start", lost[0])
	case h.dev:
		return h.devCommand("up")
	case len(lost) > 0:
		return fmt.Sprintf("on another master: hactl status; on %s: systemctl start hactl-etcd", strings.Join(lost, " and "))
	default:
		return "on another master: hactl status"
	}
}

func (h hints) reach() string {
	if h.dev {
		return h.devCommand("up")
	}
	return "on a master: hactl status"
}

func (h hints) frontDoor() string {
	if h.dev {
		return h.devCommand("up")
	}
	return "hactl lb status"
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// age is a length of time in one unit: 45s, 12m, 3h, 9d.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
}

// sizeOf is a number of bytes with a binary unit.
func sizeOf(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if f < 10 {
		return fmt.Sprintf("%.1f%ciB", f, units[i])
	}
	return fmt.Sprintf("%.0f%ciB", f, units[i])
}

// printable keeps what others wrote (errors, a process' own words, names in
// certificates) from steering the reader's terminal or breaking a row.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, s)
}
