package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/workload"
)

// Options are the same for all units of a host.
type Options struct {
	// Version of systemd; 0: an old one. From 254 on the pauses between restarts
	// grow.
	Version int
	// Fingerprint of what else decides how the unit runs, such as the part of a
	// configuration that its program reads: when it changes, so does the file.
	// Systemd does not look at it. Empty: none.
	Fingerprint string
	// Target that starts the unit; empty: multi-user.target.
	Target string
}

var unitName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:_.\\-]*(@[A-Za-z0-9:_.\\-]+)?$`)

// FileName is the name of the file that holds the unit.
func FileName(unit string) string { return unit + ".service" }

// Render returns the unit file of u. It errs, with every fault, on what cannot
// be written into one.
func Render(u workload.Unit, box Sandbox, opt Options) ([]byte, error) {
	r := &renderer{unit: u.Name}
	if !unitName.MatchString(u.Name) {
		r.fault("not a unit's name")
	}
	if len(u.Exec) == 0 || !filepath.IsAbs(u.Exec[0]) {
		r.fault("exec: %q does not begin with an absolute path", u.Exec)
	}
	r.comment(rendered + " Add a drop-in instead: systemctl edit " + FileName(u.Name))
	r.section("Unit")
	r.text("Description", u.Description)
	r.set("Documentation", "https://github.com/hactl/hactl")
	r.set("Wants", "network-online.target")
	r.set("After", strings.Join(append([]string{"network-online.target", "time-sync.target"}, services(u.After)...), " "))
	r.set("StartLimitIntervalSec", "0")
	r.section("Service")
	r.life(u, box, opt)
	r.resources(box)
	r.confine(u, box)
	r.section("Install")
	target := opt.Target
	if target == "" {
		target = "multi-user.target"
	}
	r.words("WantedBy", false, target)
	if opt.Fingerprint != "" {
		r.section("X-Hactl")
		r.words("Fingerprint", false, opt.Fingerprint)
	}
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	return r.out.Bytes(), nil
}

func services(units []string) []string {
	out := make([]string, 0, len(units))
	for _, u := range units {
		out = append(out, FileName(u))
	}
	return out
}

// renderer collects a unit file and the faults met.
type renderer struct {
	unit string
	out  bytes.Buffer
	errs []error
}

func (r *renderer) fault(format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("unit %q: %w", r.unit, fmt.Errorf(format, args...)))
}

func (r *renderer) comment(s string) { fmt.Fprintf(&r.out, "# %s\n", s) }

func (r *renderer) section(name string) { fmt.Fprintf(&r.out, "\n[%s]\n", name) }

// set writes a value that is known to be good.
func (r *renderer) set(key, value string) { fmt.Fprintf(&r.out, "%s=%s\n", key, value) }

func (r *renderer) on(keys ...string) {
	for _, k := range keys {
		r.set(k, "yes")
	}
}

func (r *renderer) text(key, value string) {
	s, err := line(value)
	if err != nil {
		r.fault("%s: %w", key, err)
	}
	r.set(key, s)
}

func (r *renderer) words(key string, command bool, values ...string) {
	s, err := words(values, command)
	if err != nil {
		r.fault("%s: %w", key, err)
	}
	r.set(key, s)
}

// span writes a time; a negative one is a fault.
func (r *renderer) span(key string, d time.Duration) {
	if d < 0 {
		r.fault("%s: %v is negative", key, d)
	}
	r.set(key, seconds(d))
}

// seconds writes d as systemd reads it, in seconds or milliseconds.
func seconds(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10)
	}
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10) + "ms"
}

// life writes how the unit starts, is watched, ends and starts again.
func (r *renderer) life(u workload.Unit, box Sandbox, opt Options) {
	if u.Notify {
		r.set("Type", "notify")
	} else {
		r.set("Type", "exec")
	}
	if u.Notify || u.WatchdogSec != 0 {
		r.set("NotifyAccess", "main")
	}
	r.words("ExecStart", true, u.Exec...)
	if box.WorkingDir != "" {
		r.text("WorkingDirectory", box.WorkingDir)
	}
	if box.ReloadSignal != "" {
		r.set("ExecReload", "/bin/kill -s "+box.ReloadSignal+" $MAINPID")
	}
	if strings.HasPrefix(u.Name, podmasters) && len(u.Exec) > 0 {
		// Releases the lock when podmaster was killed. Its failure is no matter.
		r.words("ExecStopPost", true, "-"+u.Exec[0], "__stopped")
	}
	for _, kv := range u.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			r.fault("env: %q is not KEY=value", kv)
		}
		r.words("Environment", false, kv)
	}
	if u.WatchdogSec != 0 {
		r.span("WatchdogSec", u.WatchdogSec)
		r.set("WatchdogSignal", "SIGKILL")
	}
	r.set("Restart", "always")
	r.set("RestartSec", "100ms")
	if opt.Version >= 254 {
		r.set("RestartSteps", "6")
		r.set("RestartMaxDelaySec", "5s")
	}
	if u.StartTimeout != 0 {
		r.span("TimeoutStartSec", u.StartTimeout)
	}
	if u.StopTimeout != 0 {
		r.span("TimeoutStopSec", u.StopTimeout)
	}
	// The main process stops its children itself; what is left then is killed.
	r.set("KillMode", "mixed")
	if box.Children {
		r.set("OOMPolicy", "continue")
	}
	if box.SocketUnit != "" {
		r.set("Sockets", box.SocketUnit)
	}
	if u.LogFile != "" {
		if !filepath.IsAbs(u.LogFile) {
			r.fault("logFile: %q is not an absolute path", u.LogFile)
		}
		// Not words: the rest of the line is the path.
		r.text("StandardOutput", "append:"+u.LogFile)
		r.text("StandardError", "append:"+u.LogFile)
	}
}

func (r *renderer) resources(box Sandbox) {
	r.set("LimitNOFILE", "1048576")
	r.set("TasksMax", "infinity")
	if box.Nice != 0 {
		r.set("Nice", strconv.Itoa(box.Nice))
		if box.Nice < 0 {
			r.set("IOSchedulingClass", "best-effort")
			r.set("IOSchedulingPriority", "2")
		}
	}
	if box.OOMScoreAdjust != 0 {
		r.set("OOMScoreAdjust", strconv.Itoa(box.OOMScoreAdjust))
	}
}

// confine writes what the unit may not do.
func (r *renderer) confine(u workload.Unit, box Sandbox) {
	r.set("UMask", "0077")
	r.set("CapabilityBoundingSet", "")
	r.set("AmbientCapabilities", "")
	r.on("NoNewPrivileges", "LockPersonality", "MemoryDenyWriteExecute", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID")
	r.on("PrivateDevices", "PrivateMounts", "ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables")
	if box.SystemBus {
		r.comment("It calls systemd and looks at the other units' processes.")
		r.set("ProtectProc", "default")
	} else {
		r.on("PrivateUsers")
		r.set("ProtectProc", "invisible")
	}
	paths := append(slices.Clone(box.ReadWrite), u.Exec...)
	if !slices.ContainsFunc(paths, under("/tmp", "/var/tmp")) {
		r.on("PrivateTmp")
	}
	if slices.ContainsFunc(paths, under("/home", "/root", "/run/user")) {
		r.set("ProtectHome", "read-only")
	} else {
		r.on("ProtectHome")
	}
	r.set("ProtectSystem", "strict")
	if len(box.ReadWrite) > 0 {
		optional := make([]string, 0, len(box.ReadWrite))
		for _, p := range box.ReadWrite {
			if !filepath.IsAbs(p) {
				r.fault("readWrite: %q is not an absolute path", p)
			}
			optional = append(optional, "-"+p)
		}
		r.words("ReadWritePaths", false, optional...)
	}
	if slices.Contains(box.ReadWrite, "/run/hactl") {
		r.set("RuntimeDirectory", "hactl")
		r.set("RuntimeDirectoryMode", "0755")
		r.comment("Shared: its end must not take the others' sockets away.")
		r.on("RuntimeDirectoryPreserve")
	}
	r.comment("Netlink is how Go lists the host's addresses.")
	r.set("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX AF_NETLINK")
	r.set("SystemCallArchitectures", "native")
	r.set("SystemCallFilter", "@system-service")
	r.set("SystemCallFilter", "~@privileged @resources")
	if box.Chown {
		r.comment("Log rotation gives the new file the old one's owner.")
		r.set("SystemCallFilter", "@chown")
	}
	r.set("SystemCallErrorNumber", "EPERM")
}

// under reports whether a path lies in one of the folders.
func under(folders ...string) func(path string) bool {
	return func(path string) bool {
		return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
	}
}

// RenderSocket returns the socket unit that keeps the listeners of a service
// while that is restarted. Each address is HOST:PORT; an empty host is every
// address.
func RenderSocket(unit, description string, addresses ...string) ([]byte, error) {
	r := &renderer{unit: unit}
	if !unitName.MatchString(unit) {
		r.fault("not a unit's name")
	}
	if len(addresses) == 0 {
		r.fault("no address to listen on")
	}
	r.comment(rendered + " Add a drop-in instead: systemctl edit " + unit + ".socket")
	r.section("Unit")
	r.text("Description", description)
	r.section("Socket")
	for _, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		n, perr := strconv.ParseUint(port, 10, 16)
		switch {
		case err != nil || perr != nil || n == 0 || (host != "" && net.ParseIP(host) == nil):
			r.fault("listen: %q is not ADDRESS:PORT", a)
		case host == "":
			r.set("ListenStream", port)
		default:
			r.set("ListenStream", a)
		}
	}
	r.set("Backlog", "4096")
	r.on("NoDelay")
	r.comment("The address may come later than the socket.")
	r.on("FreeBind")
	r.section("Install")
	r.set("WantedBy", "sockets.target")
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	return r.out.Bytes(), nil
}
