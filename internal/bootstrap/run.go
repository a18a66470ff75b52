package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/master"
	"github.com/hactl/hactl/internal/rendezvous"
	"github.com/hactl/hactl/internal/status"
)

// The steps of bootstrap and join, in their order, as the journal names them.
const (
	StepPreflight = "preflight" // the machine is fit
	StepConfig    = "config"    // the configuration is installed
	StepMeet      = "meet"      // the machines meet
	StepSecrets   = "secrets"   // the CA set and the keys are made or fetched
	StepFiles     = "files"     // certificates, kubeconfigs, Kubernetes' own files
	StepUnits     = "units"     // unit files
	StepIntent    = "intent"    // the permission to found, or the place as a learner
	StepEtcd      = "etcd"      // the units are enabled, the member runs
	StepVote      = "vote"      // the member votes
	StepStart     = "start"     // everything else runs
	StepServe     = "serve"     // API server, balancer and singletons serve
	StepNode      = "node"      // kubelet and container runtime, where installed
)

// Steps lists the steps of bootstrap in their order.
func Steps() []string {
	return []string{
		StepPreflight, StepConfig, StepMeet, StepSecrets, StepFiles, StepUnits,
		StepIntent, StepEtcd, StepVote, StepStart, StepServe, StepNode,
	}
}

// Config is what Run needs.
type Config struct {
	// File is the configuration given; empty: the one that is installed. It is
	// copied to its place.
	File   string
	Layout layout.Layout
	Name   string // of this master; empty: found out by its address
	// Without names masters that will not be there at the founding.
	Without   []string
	JoinOnly  bool // never found
	AllowEven bool // accept an even number of masters
	DryRun    bool // say what would be done, and change nothing

	Hactl, Podmaster string // this program's file, and podmaster's
	Systemd          Systemd
	// Preflight checks the machine, and later, with the cards of the others, what
	// only shows together. Nil: nothing is checked.
	Preflight func(context.Context, Preflight) error
	// Meet opens the meeting; nil: rendezvous.New.
	Meet func(rendezvous.Config) (Meeting, error)
	// Report asks the whole cluster how it is.
	Report func(context.Context, *config.Cluster) (*status.Report, error)

	// Journaled is told of each entry in the journal, once it is on the disk; nil:
	// nobody is. Tests cut a command there.
	Journaled func(step, state string)

	Progress io.Writer    // one line a step and a reason to wait; nil: none
	Logger   *slog.Logger // nil: nothing is logged
}

// Preflight is what a check may look at.
type Preflight struct {
	Cluster *config.Cluster
	Self    config.Master
	Layout  layout.Layout
	// Member: this machine is a master already, so its ports are its own.
	Member bool
	// Seen are the other machines at the meeting; nil before it.
	Seen []rendezvous.Seen
}

// Systemd is what the steps need of it; package workload/systemd has it.
type Systemd interface {
	Units
	Files
	Version(context.Context) (int, error)
	UseHardwareWatchdog(context.Context) (string, error)
	LeaveHardwareWatchdog(context.Context) error
}

// Meeting is what the steps need of a rendezvous.Node.
type Meeting interface {
	Run(context.Context) error
	Refresh()
	Cards() ([]rendezvous.Seen, <-chan struct{})
	ConfigOf(context.Context, string) ([]byte, error)
	SecretsOf(context.Context, string) (rendezvous.Secrets, error)
	Conflicts() error
	Unmet() []rendezvous.Unmet
}

// Result is what Run has done. Its JSON is a contract (docs/bootstrap.md).
type Result struct {
	Cluster    string         `json:"cluster"`
	Master     string         `json:"master"`
	DryRun     bool           `json:"dryRun,omitempty"`
	Steps      []StepResult   `json:"steps"`
	Kubeconfig string         `json:"kubeconfig,omitempty"`
	Report     *status.Report `json:"status,omitempty"`
}

// StepResult is one step of a Result.
type StepResult struct {
	Name    string  `json:"name"`
	Note    string  `json:"note"`
	Seconds float64 `json:"seconds"`
}

// run is one command under way.
type run struct {
	cfg     Config
	cluster *config.Cluster
	text    []byte // the configuration's canonical text
	self    config.Master
	host    *master.Host
	journal *journal
	began   time.Time
	order   []string // unit files in the order of starting

	memberID string // of leave: this machine's
	result   Result

	own          phase
	meeting      Meeting // nil: none was needed
	meetingEnded chan error
	leave        func()            // ends the meeting
	said         string            // the last reason to wait
	shown        map[string]string // by machine: how its configuration differs
}

// Run makes this machine a master, or says why not. It takes every step anew;
// one that was taken finds that out by itself. ctx bounds it.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	r := newRun(cfg)
	defer r.endMeeting()
	if err := r.identify(); err != nil {
		return nil, err
	}
	r.result = Result{Cluster: r.cluster.Name, Master: r.self.Name, DryRun: cfg.DryRun, Steps: []StepResult{}}
	if cfg.DryRun {
		return &r.result, r.plan(ctx)
	}
	if err := cfg.Layout.MkdirAll(); err != nil {
		return nil, unwritten("make the folders", cfg.Layout.State(), err)
	}
	j, last, err := openJournal(cfg.Layout, CommandBootstrap)
	if err != nil {
		return nil, err
	}
	defer j.close()
	r.journal, j.Master, j.told = j, r.self.Name, cfg.Journaled
	if cut := last.Cut(); cut != "" && last.Command == CommandBootstrap {
		r.say("going on: the run before was cut at the step %s", cut)
	}
	for _, s := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{StepPreflight, r.preflight},
		{StepConfig, r.installConfig}, // running parts follow the file, so it is judged first
		{StepMeet, r.meet},
		{StepSecrets, r.secrets},
		{StepFiles, r.files},
		{StepUnits, r.units},
		{StepIntent, r.intent},
		{StepEtcd, r.etcd},
		{StepVote, r.vote},
		{StepStart, r.start},
		{StepServe, r.serve},
		{StepNode, r.node},
	} {
		if err := r.step(ctx, s.name, s.do); err != nil {
			return &r.result, err
		}
	}
	r.result.Kubeconfig = cfg.Layout.Kubeconfig("admin")
	return &r.result, j.finish()
}

func newRun(cfg Config) *run {
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	if cfg.Logger == nil {
		cfg.Logger = logging.Discard()
	}
	if cfg.Meet == nil {
		cfg.Meet = func(c rendezvous.Config) (Meeting, error) { return rendezvous.New(c) }
	}
	if cfg.File == "" {
		cfg.File = cfg.Layout.ConfigFile()
	}
	return &run{cfg: cfg, began: time.Now(), leave: func() {}, shown: map[string]string{}}
}

// step takes one step between its two entries in the journal.
func (r *run) step(ctx context.Context, name string, do func(context.Context) (string, error)) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	began := time.Now()
	if err := r.journal.begin(name); err != nil {
		return err
	}
	note, err := do(ctx)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", r.self.Name, name, err)
	}
	if err := r.journal.done(note); err != nil {
		return err
	}
	r.result.Steps = append(r.result.Steps, StepResult{name, note, time.Since(began).Seconds()})
	if note != "" {
		r.say("%s: %s", name, note)
	}
	return nil
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.cfg.Progress, "%6.1fs  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// waitFor says why it waits, once a reason.
func (r *run) waitFor(why string) {
	if why != r.said {
		r.said = why
		r.say("waiting: %s", why)
	}
}

// identify reads the configuration and finds out who this machine is.
func (r *run) identify() error {
	var err error
	if r.cluster, err = LoadConfig(r.cfg.File, r.cfg.Layout); err != nil {
		return err
	}
	if r.cluster.Discovery != nil {
		return exitcode.Errorf(exitcode.Usage, "the configuration names no masters: bootstrap needs them all").WithHint("masters: instead of discovery: in %s", r.cfg.File)
	}
	if !r.cfg.AllowEven {
		if err := r.cluster.CheckMasterCount(); err != nil {
			return exitcode.Errorf(exitcode.Refused, "%w", err).WithHint("an odd number of masters; or --allow-even")
		}
	}
	if r.text, err = config.Marshal(r.cluster); err != nil {
		return err
	}
	addresses, err := ownAddresses()
	if err != nil {
		return err
	}
	if r.self, err = WhoAmI(r.cluster, r.cfg.Name); err != nil {
		return err
	}
	return r.checkWithout(addresses)
}

func (r *run) checkWithout(addresses []netip.Addr) error {
	for _, w := range r.cfg.Without {
		switch _, known := r.cluster.MasterByName(w); {
		case !known:
			return exitcode.Errorf(exitcode.Usage, "--without %s: the configuration has no such master", w)
		case w == r.self.Name:
			return exitcode.Errorf(exitcode.Usage, "--without %s: that is this machine", w)
		}
	}
	if r.cfg.Layout.Root != "" {
		return nil
	}
	self, err := netip.ParseAddr(r.self.Address)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if a == self {
			return nil
		}
	}
	return exitcode.Errorf(exitcode.Usage, "this machine does not have the address %s of master %s", r.self.Address, r.self.Name).
		WithHint("ip address; then --name or the address in cluster.yaml")
}

// dropIns are the files that will lie in the folder of drop-ins: those that are
// there, and over them those beside the file given, as FILE.d has them.
func dropIns(file string, l layout.Layout) (from map[string]string, err error) {
	from = map[string]string{}
	dirs := []string{l.ConfigDropIns()}
	if !same(file, l.ConfigFile()) {
		dirs = append(dirs, file+".d")
	}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil {
			return nil, exitcode.Errorf(exitcode.Usage, "--config %s: %w", file, err)
		}
		for _, f := range files {
			from[filepath.Base(f)] = f
		}
	}
	return from, nil
}

// LoadConfig reads the configuration in file as it will be read once it is
// installed: over it come the drop-ins that the master has, and over those the
// ones in the folder FILE.d.
func LoadConfig(file string, l layout.Layout) (*config.Cluster, error) {
	from, err := dropIns(file, l)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, name := range slices.Sorted(maps.Keys(from)) {
		files = append(files, from[name])
	}
	return config.LoadFiles(file, files...)
}

// installConfig copies the configuration to where every part reads it.
func (r *run) installConfig(context.Context) (string, error) {
	note := "cluster " + r.cluster.Name + ", this is " + r.self.Name
	place := r.cfg.Layout.ConfigFile()
	if same(r.cfg.File, place) {
		return note, nil
	}
	from, err := dropIns(r.cfg.File, r.cfg.Layout)
	if err != nil {
		return "", err
	}
	for name, file := range from {
		if err := copyFile(file, filepath.Join(r.cfg.Layout.ConfigDropIns(), name)); err != nil {
			return "", err
		}
	}
	return note + "; " + r.cfg.File + " installed as " + place, copyFile(r.cfg.File, place)
}

func copyFile(from, to string) error {
	if same(from, to) {
		return nil
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return atomicfile.Write(to, text, 0o644)
}

func same(a, b string) bool {
	fa, err := os.Stat(a)
	if err != nil {
		return false
	}
	fb, err := os.Stat(b)
	return err == nil && os.SameFile(fa, fb)
}

func (r *run) preflight(ctx context.Context) (string, error) {
	own, err := ReadOwn(r.cfg.Layout, r.cluster)
	if err != nil {
		return "", err
	}
	r.own.set(own.Phase)
	r.own.setFingerprint(own.CA)
	if own.Phase == rendezvous.Removed {
		_, err := r.decide(ctx) // which refuses, and says why
		return "", err
	}
	programs := r.programs()
	if err := programs.Find(ctx); err != nil {
		return "", err
	}
	if r.host, err = master.New(r.cluster, r.self.Name, r.cfg.Layout, programs); err != nil {
		return "", err
	}
	if err := r.check(ctx, nil); err != nil {
		return "", err
	}
	if r.cfg.Layout.Root == "" && os.Getuid() != 0 {
		return "", exitcode.Errorf(exitcode.Failed, "only root can do this").WithHint("sudo hactl bootstrap")
	}
	return "the machine is fit", nil
}

func (r *run) check(ctx context.Context, seen []rendezvous.Seen) error {
	if r.cfg.Preflight == nil {
		return nil
	}
	return r.cfg.Preflight(ctx, Preflight{
		Cluster: r.cluster, Self: r.self, Layout: r.cfg.Layout, Member: r.own.get() == rendezvous.Member, Seen: seen,
	})
}

func (r *run) programs() master.Programs {
	return master.Programs{Hactl: r.cfg.Hactl, Podmaster: r.cfg.Podmaster, KubeBin: r.cluster.Kubernetes.BinDir}
}

// files makes the master's certificates and what else its parts read.
func (r *run) files(context.Context) (string, error) {
	if err := r.host.WriteFiles(); err != nil {
		return "", err
	}
	return "certificates and files are in place", nil
}

// timedOut makes the error of a wait that came to nothing.
func timedOut(ctx context.Context, why, hint string) error {
	if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	e := exitcode.Errorf(exitcode.TimedOut, "waited in vain: %s", why)
	if hint == "" {
		hint = "the same command goes on from here; --timeout gives it longer"
	}
	return e.WithHint("%s", hint)
}
