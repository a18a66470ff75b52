package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/singleton"
)

// options is the checked command line.
type options struct {
	endpoints []string
	tls       etcdlock.TLSFiles
	key       string
	whoami    string
	lease     lease.Config
	command   []string

	unit         string
	source, dest string
	every        time.Duration
	kubelet      singleton.KubeletConfig

	preferAfter time.Duration
	stopGrace   time.Duration
	oneShot     bool
	crashBudget int
	crashWindow time.Duration
	health      singleton.HealthConfig

	gateListen, gateTarget string
	history                string

	log *slog.Logger
}

// parse reads the flags, the environment and the file, and tells every fault at once.
func parse(c *cli.Context) (*options, error) {
	o := &options{command: c.Args().Slice()}
	if file := c.String("config"); file != "" {
		command, err := readConfig(c, file)
		if err != nil {
			return nil, usage("%w", err)
		}
		if len(o.command) == 0 {
			o.command = command
		}
	}
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	for ep := range strings.SplitSeq(c.String("etcd-servers"), ",") {
		if ep = strings.TrimSpace(ep); ep != "" {
			o.endpoints = append(o.endpoints, ep)
		}
	}
	if len(o.endpoints) == 0 {
		add("--etcd-servers: required")
	}
	o.tls = etcdlock.TLSFiles{CAFile: c.String("etcd-cafile"), CertFile: c.String("etcd-certfile"), KeyFile: c.String("etcd-keyfile")}
	if file := c.String("history"); file != "" { // the guard may have another folder
		var err error
		if o.history, err = filepath.Abs(file); err != nil {
			add("--history: %w", err)
		}
	}
	o.key = c.String("key")
	if o.key == "" {
		add("--key: required")
	} else if _, err := etcdlock.Prefix(o.key); err != nil {
		add("--%w", err)
	}
	if err := o.identity(c); err != nil {
		errs = append(errs, err)
	}
	if err := o.timing(c); err != nil {
		errs = append(errs, err)
	}
	if err := o.mode(c); err != nil {
		errs = append(errs, err)
	}
	if g := c.String("gate"); g != "" {
		var ok bool
		if o.gateListen, o.gateTarget, ok = strings.Cut(g, "="); !ok || o.gateListen == "" || o.gateTarget == "" {
			add("--gate %q: want LISTEN=TARGET", g)
		}
	}
	if len(errs) > 0 {
		return nil, usage("%w", errors.Join(errs...))
	}
	return o, nil
}

func (o *options) identity(c *cli.Context) error {
	host, hostErr := os.Hostname()
	o.whoami = c.String("whoami")
	if c.IsSet("whoami") && o.whoami == "" {
		return errors.New("--whoami: empty; leave it out for the host's name")
	}
	if o.whoami == "" {
		o.whoami = host
	}
	if o.whoami == "" {
		return fmt.Errorf("--whoami: required, since this host has no name: %w", hostErr)
	}
	if strings.ContainsAny(o.whoami, "/ \t\n") {
		return fmt.Errorf("--whoami %q: no slash or space", o.whoami)
	}
	o.lease.Holder, o.lease.Priority = o.whoami, c.Int("priority")
	o.lease.Address = c.String("address")
	if o.lease.Address == "" {
		o.lease.Address = ownAddress(o.endpoints, host)
	}
	return nil
}

// ownAddress is the address from which this host reaches etcd, or its name when
// that is a loopback one.
func ownAddress(endpoints []string, host string) string {
	for _, ep := range endpoints {
		u, err := url.Parse(ep)
		if err != nil || u.Host == "" {
			continue
		}
		conn, err := net.Dial("udp", u.Host) // sends nothing
		if err != nil {
			continue
		}
		local, ok := conn.LocalAddr().(*net.UDPAddr)
		_ = conn.Close()
		if ok && !local.IP.IsLoopback() {
			return local.IP.String()
		}
	}
	return host
}

func (o *options) timing(c *cli.Context) error {
	o.lease.TTL = c.Duration("ttl")
	var errs []error
	if secs := c.Int("ttl-secs"); c.IsSet("ttl-secs") {
		if c.IsSet("ttl") {
			errs = append(errs, errors.New("--ttl and --ttl-secs: give one of them"))
		}
		o.lease.TTL = time.Duration(secs) * time.Second
	}
	if o.lease.TTL <= 0 {
		return errors.Join(append(errs, fmt.Errorf("--ttl %v: must be positive", o.lease.TTL))...)
	}
	o.lease.RenewEvery, o.lease.StopTime = c.Duration("renew-every"), c.Duration("stop-time")
	o.lease.MaxSkew, o.lease.Once = c.Float64("max-skew"), !c.Bool("retry")
	for name, bad := range map[string]bool{
		"renew-every": o.lease.RenewEvery <= 0, "stop-time": o.lease.StopTime <= 0, "max-skew": o.lease.MaxSkew <= 0,
	} {
		if c.IsSet(name) && bad {
			errs = append(errs, fmt.Errorf("--%s: must be positive", name))
		}
	}
	if c.IsSet("wait") {
		wait := c.Duration("wait")
		o.lease.Wait = &wait
	}
	errs = append(errs, asFlags(o.lease)...)
	o.stopGrace, o.oneShot = c.Duration("stop-grace"), c.Bool("oneshot")
	o.preferAfter = c.Duration("prefer-after")
	if o.preferAfter < 0 {
		errs = append(errs, fmt.Errorf("--prefer-after %v: must not be negative", o.preferAfter))
	}
	o.crashBudget, o.crashWindow = c.Int("crash-budget"), c.Duration("crash-window")
	for name, bad := range map[string]bool{
		"stop-grace": o.stopGrace <= 0, "crash-budget": o.crashBudget <= 0, "crash-window": o.crashWindow <= 0,
		"start-timeout": c.Duration("start-timeout") <= 0,
	} {
		if bad {
			errs = append(errs, fmt.Errorf("--%s: must be positive", name))
		}
	}
	return errors.Join(errs...)
}

// asFlags tells the faults of cfg's times by the names that they have here.
func asFlags(cfg lease.Config) []error {
	cfg.Holder = "named" // identity has told what is wrong with the name
	joined, ok := cfg.Validate().(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var errs []error
	for _, err := range joined.Unwrap() {
		text := err.Error()
		for _, name := range []string{"renew every", "stop time", "lock delay", "max skew"} {
			if strings.HasPrefix(text, name) {
				text = strings.Replace(text, " ", "-", 1)
			}
		}
		errs = append(errs, errors.New("--"+text))
	}
	return errs
}

// mode says what runs: exactly one of a command, a unit and a manifest.
func (o *options) mode(c *cli.Context) error {
	unit, src, dst := c.String("unit"), c.String("source-file"), c.String("dest-file")
	n := 0
	for _, given := range []bool{len(o.command) > 0, unit != "", src != "" || dst != ""} {
		if given {
			n++
		}
	}
	if n != 1 {
		return errors.New("give one of: -- COMMAND, --unit UNIT, --source-file and --dest-file")
	}
	if ext := filepath.Ext(unit); unit != "" && ext != ".service" {
		return fmt.Errorf("--unit %q: want UNIT.service", unit)
	}
	o.unit = unit
	if (src == "") != (dst == "") {
		return errors.New("--source-file and --dest-file: give both")
	}
	o.source, o.dest, o.every = src, dst, c.Duration("sleep")
	if o.source != "" {
		o.lease.LockDelay = c.Duration("lock-delay")
		if !c.IsSet("stop-grace") {
			o.stopGrace = 0 // the manifest's own default
		}
		if o.every <= 0 || o.oneShot {
			return errors.New("--sleep must be positive, and --oneshot is for commands")
		}
	}
	o.kubelet = singleton.KubeletConfig{
		URL: c.String("kubelet-url"), CAFile: c.String("kubelet-cafile"), CertFile: c.String("kubelet-certfile"), KeyFile: c.String("kubelet-keyfile"),
		Insecure: c.Bool("kubelet-insecure"), Manifest: src,
	}
	if o.kubelet.URL != "" && src == "" {
		return errors.New("--kubelet-url: is for --source-file")
	}
	if k := o.kubelet; k.URL == "" && (k.CAFile != "" || k.CertFile != "" || k.KeyFile != "" || k.Insecure) {
		return errors.New("--kubelet-cafile, --kubelet-certfile, --kubelet-keyfile and --kubelet-insecure: need --kubelet-url")
	}
	o.health = singleton.HealthConfig{
		URL: c.String("health-url"), Every: c.Duration("health-every"), Timeout: c.Duration("health-timeout"),
		Fails: c.Int("health-fails"), Grace: c.Duration("health-grace"),
		CAFile: c.String("health-cafile"), Insecure: c.Bool("health-insecure"),
	}
	return o.checkHealth(c)
}

// checkHealth refuses what would silently be of no effect, or mean the default.
func (o *options) checkHealth(c *cli.Context) error {
	var errs []error
	for _, name := range []string{"health-every", "health-timeout", "health-fails", "health-grace", "health-cafile", "health-insecure"} {
		if o.health.URL == "" && c.IsSet(name) {
			errs = append(errs, fmt.Errorf("--%s: needs --health-url", name))
		}
	}
	for name, bad := range map[string]bool{
		"health-every": o.health.Every <= 0, "health-timeout": o.health.Timeout <= 0, "health-fails": o.health.Fails <= 0, "health-grace": o.health.Grace <= 0,
	} {
		if bad {
			errs = append(errs, fmt.Errorf("--%s: must be positive", name))
		}
	}
	return errors.Join(errs...)
}
