package preflight

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The levels of a Finding.
const (
	Error   = "error"   // the machine must not become a master like this
	Warning = "warning" // it can, and somebody should know
)

// Finding is one fault.
type Finding struct {
	Check   string `json:"check"` // the stable name, for --ignore-preflight
	Level   string `json:"level"` // Error or Warning
	Ignored bool   `json:"ignored,omitempty"`
	Problem string `json:"problem"`
	Cure    string `json:"cure"` // the next command to type, or what to do
}

// What is tolerated.
const (
	// SkewWarning is from where etcd's members warn about each other's clocks
	// (rafthttp's maxClockDrift).
	SkewWarning = time.Second
	// SkewError is what Kubernetes tolerates in a token's times (go-jose's
	// DefaultLeeway): beyond it, one API server refuses what another issued.
	SkewError = time.Minute
	// FsyncWarning is etcd's own advice for the 99th percentile of
	// wal_fsync_duration_seconds (etcd.io, FAQ, "What does the etcd warning 'failed
	// to send out heartbeat on time' mean?").
	FsyncWarning = 10 * time.Millisecond
	// FsyncError is one default heartbeat: such a leader is deposed again and again.
	FsyncError = 100 * time.Millisecond
	// MemoryLeast is 2 GB as the kernel counts them, which keeps some for itself
	// (kubeadm's 1700 MB). A master takes about 600 MB when idle.
	MemoryLeast = 1700 << 20
	// OpenFilesWarning and OpenFilesError bound what a unit can open: a connection
	// through the balancer takes two, and up to four more for its pipes.
	OpenFilesWarning = 65536
	OpenFilesError   = 4096
)

// The names of the checks. Every port has its own, such as Port-6443.
const (
	CheckConfig     = "Config"
	CheckName       = "Name"
	CheckAddress    = "Address"
	CheckRoot       = "Root"
	CheckSystemd    = "Systemd"
	CheckDBus       = "DBus"
	CheckOld        = "OldInstallation"
	CheckToken      = "Token"
	CheckPrograms   = "Programs"
	CheckKubernetes = "KubernetesVersion"
	CheckFsync      = "DiskFsync"
	CheckSpace      = "DiskSpace"
	CheckFiles      = "FileLimit"
	CheckSkew       = "TimeSkew"
	CheckClock      = "TimeSync"
	CheckMemory     = "Memory"
	CheckCPU        = "CPU"
	CheckSwap       = "Swap"
	portPrefix      = "Port-"
)

// check is one question. judge is called only when there is nothing that makes
// the question void, which void says.
type check struct {
	name  string
	void  func(*Facts) string
	judge func(*Facts, *verdict)
}

// checks are all checks but the ports', in the order of the report: what makes
// others void comes first.
var checks = []check{
	{CheckConfig, nil, judgeConfig},
	{CheckName, withoutConfig, judgeName},
	{CheckAddress, withoutMaster, judgeAddress},
	{CheckRoot, nil, judgeRoot},
	{CheckSystemd, nil, judgeSystemd},
	{CheckDBus, withoutSystemd, judgeDBus},
	{portPrefix, withoutMaster, judgePorts},
	{CheckOld, nil, judgeOld},
	{CheckToken, withoutConfig, judgeToken},
	{CheckPrograms, nil, judgePrograms},
	{CheckKubernetes, withoutConfig, judgeKubernetes},
	{CheckFsync, nil, judgeFsync},
	{CheckSpace, withoutConfig, judgeSpace},
	{CheckFiles, nil, judgeFiles},
	{CheckSkew, withoutPeers, judgeSkew},
	{CheckClock, nil, judgeClock},
	{CheckMemory, nil, judgeMemory},
	{CheckCPU, nil, judgeCPU},
	{CheckSwap, nil, judgeSwap},
}

func withoutConfig(f *Facts) string {
	if f.Cluster == nil {
		return "without a valid configuration"
	}
	return ""
}

func withoutMaster(f *Facts) string {
	if f.Master.Name == "" {
		return "it is not known which master this is"
	}
	return ""
}

func withoutSystemd(f *Facts) string {
	if !f.Systemd.Booted {
		return "systemd does not run"
	}
	return ""
}

func withoutPeers(f *Facts) string {
	if len(f.Peers) == 0 {
		return "no other master was heard"
	}
	return ""
}

// Evaluate judges the facts: every fault, in the order of the checks. It is a
// pure function.
func Evaluate(f Facts) []Finding {
	var all []Finding
	for _, c := range checks {
		if c.void != nil && c.void(&f) != "" {
			continue
		}
		v := verdict{check: c.name}
		c.judge(&f, &v)
		all = append(all, v.findings...)
	}
	return all
}

// verdict collects what one check found.
type verdict struct {
	check    string
	findings []Finding
}

func (v *verdict) add(level, cure, format string, args ...any) {
	v.findings = append(v.findings, Finding{Check: v.check, Level: level, Problem: fmt.Sprintf(format, args...), Cure: cure})
}

// unknown is the warning for what could not be looked at.
func (v *verdict) unknown(err error) {
	v.add(Warning, "run it as root; if it stays, look at the cause", "could not be checked: %v", err)
}

var portName = regexp.MustCompile(`(?i)^` + portPrefix + `[0-9]{1,5}$`)

// Names lists the checks of a machine with these facts, in the order of the
// report. Without a known master the ports are missing.
func Names(f Facts) []string {
	var names []string
	for _, c := range checks {
		if c.name != portPrefix {
			names = append(names, c.name)
			continue
		}
		for _, p := range f.Ports {
			if !slices.Contains(names, p.check()) {
				names = append(names, p.check())
			}
		}
	}
	return names
}

// All stands for every check in a list of those to ignore.
const All = "all"

// CheckIgnore says which of the names to ignore no check has, with all that there
// are; nil when all are known. Upper and lower case are the same.
func CheckIgnore(names []string) error {
	var unknown []string
	for _, n := range names {
		known := strings.EqualFold(n, All) || portName.MatchString(n) ||
			slices.ContainsFunc(checks, func(c check) bool { return c.name != portPrefix && strings.EqualFold(c.name, n) })
		if !known {
			unknown = append(unknown, fmt.Sprintf("%q", n))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	all := []string{All}
	for _, c := range checks {
		if c.name == portPrefix {
			all = append(all, portPrefix+"NUMBER")
		} else {
			all = append(all, c.name)
		}
	}
	return fmt.Errorf("no check is called %s; there are %s", strings.Join(unknown, ", "), strings.Join(all, ", "))
}
