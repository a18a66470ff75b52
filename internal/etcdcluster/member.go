package etcdcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"

	"github.com/hactl/hactl/internal/exitcode"
)

// patienceStep is how long the supervisor is asked to wait on while a member
// starts, again and again: a member without a quorum is not ill, and a restart
// would not give it one.
const patienceStep = 30 * time.Second

// Member is one etcd member, embedded in this process. etcd ends the process by
// itself when its disk fails, so nothing else should live there.
type Member struct {
	cfg     Config
	metrics *metrics
	why     atomic.Pointer[string] // etcd's own words on why it stopped
	removed atomic.Bool
	// admitted is set when clients may be answered.
	admitted atomic.Bool
	server   atomic.Pointer[etcdserver.EtcdServer] // nil until it was started
	gate     atomic.Pointer[leaderGate]            // nil until the member serves
}

// New returns a member that does not run yet. It errs when cfg is wrong, naming
// every fault.
func New(cfg Config) (*Member, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	return &Member{cfg: cfg, metrics: m}, nil
}

// Run runs the member until ctx ends, and then stops it in order: a leader
// hands over, clients are sent to other members, the server closes. It returns
// nil after that; ErrCloseTimeout when closing took too long; a refusal (exit
// code 3) wrapping ErrNoIntent, ErrDataLost, ErrOtherCluster, ErrOtherMember or
// ErrRemoved when the member must not start, or ErrCorrupt when its data turn out
// to differ from the others'; ErrInUse, or ErrStopped when etcd ended by itself.
func (m *Member) Run(ctx context.Context) error {
	if err := os.MkdirAll(m.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("etcd member %s: %w", m.cfg.Name, err)
	}
	unlock, err := lockState(m.cfg.StateDir)
	if err != nil {
		return inUse(err, m.cfg.Name)
	}
	defer unlock()
	how, err := m.prepare()
	if err != nil {
		return inUse(err, m.cfg.Name)
	}

	streams, endStreams := context.WithCancel(context.Background())
	defer endStreams()
	e, err := m.start(ctx, streams, how)
	if err != nil {
		return err
	}
	if e == nil { // stopped while starting
		return nil
	}
	if err := m.record(e, how); err != nil {
		endStreams()
		return errors.Join(err, m.close(e))
	}
	err = m.serve(ctx, e, how.restart)
	if err == nil {
		m.cfg.Notify("STOPPING=1")
		m.handOver(e.Server)
	}
	endStreams()
	return errors.Join(err, m.close(e))
}

// inUse gives a held lock its way out, and other errors their place.
func inUse(err error, name string) error {
	var coded *exitcode.Error
	if errors.As(err, &coded) {
		return err
	}
	err = fmt.Errorf("etcd member %s: %w", name, err)
	if errors.Is(err, ErrInUse) {
		return exitcode.Errorf(exitcode.Failed, "%w", err).WithHint("stop the other process first: systemctl stop hactl-etcd, or hactl dev stop %s", name)
	}
	return err
}

// start starts the server; nil without an error when ctx ended meanwhile.
// etcd's own start takes no context and may wait for other members.
func (m *Member) start(ctx, streams context.Context, how startPlan) (*embed.Etcd, error) {
	cfg, err := m.cfg.embedConfig(streams, how, m.cfg.zapLogger(m.ended))
	if err != nil {
		return nil, fmt.Errorf("etcd member %s: %w", m.cfg.Name, err)
	}
	cfg.GRPCAdditionalServerOptions = append(cfg.GRPCAdditionalServerOptions, m.interceptors()...)
	m.cfg.Logger.Info("etcd member starts", "member", m.cfg.Name, "as", how.describe(), "data", m.cfg.DataDir)
	m.status("starting: %s", how.describe())
	type result struct {
		e   *embed.Etcd
		err error
	}
	done := make(chan result, 1)
	go func() {
		e, err := embed.StartEtcd(cfg)
		if err == nil {
			m.server.Store(e.Server)
		}
		done <- result{e, err}
	}()
	ticker := time.NewTicker(patienceStep / 3)
	defer ticker.Stop()
	var giveUp <-chan time.Time
	stop := ctx.Done()
	for {
		select {
		case r := <-done:
			switch {
			case r.err != nil && ctx.Err() != nil:
				return nil, nil
			case r.err != nil:
				return nil, startError(r.err, m.cfg)
			case ctx.Err() != nil:
				return nil, m.close(r.e)
			}
			return r.e, nil
		case <-ticker.C:
			m.waiting()
		case <-stop:
			giveUp, stop = time.After(m.cfg.CloseTimeout), nil
		case <-giveUp:
			return nil, fmt.Errorf("etcd member %s: it was still starting: %w", m.cfg.Name, ErrCloseTimeout)
		}
	}
}

// startError says what to do about the usual faults of a start.
func startError(err error, cfg Config) error {
	text := err.Error()
	e := exitcode.Errorf(exitcode.Failed, "etcd member %s: start: %w", cfg.Name, err)
	switch {
	case strings.Contains(text, "already been bootstrapped"):
		e = exitcode.Errorf(exitcode.Refused, "etcd member %s: %w: the other members already know it by this intent", cfg.Name, ErrDataLost)
		return e.WithHint("hactl etcd member replace %s, on this machine, makes it a new member", cfg.Name)
	case strings.Contains(text, "address already in use"):
		return e.WithHint("find who has the port: ss -ltnp")
	case strings.Contains(text, "cannot fetch cluster info"):
		return e.WithHint("no other member answers; check that they run and that their peer ports can be reached from here")
	case strings.Contains(text, "data inconsistency"):
		return e.WithHint("this member's data differ from the others': hactl etcd member replace %s, on this machine, fetches them anew", cfg.Name)
	}
	return e
}

func (p startPlan) describe() string {
	switch {
	case p.clusterID != 0 && p.intent.State != Pending:
		return "member " + idString(p.memberID)
	case p.intent.Action == Found:
		return "founder of a new cluster"
	default:
		return "new member of an existing cluster"
	}
}

// record keeps in the intent which member this machine now is.
func (m *Member) record(e *embed.Etcd, how startPlan) error {
	member, cluster := uint64(e.Server.MemberID()), uint64(e.Server.Cluster().ID())
	if how.memberID != 0 && member != how.memberID || how.clusterID != 0 && cluster != how.clusterID {
		return refuse(ErrOtherMember, "etcd is member %s of cluster %s, the intent says member %s of cluster %s",
			idString(member), idString(cluster), idString(how.memberID), idString(how.clusterID))
	}
	if how.intent.State == Used {
		return nil
	}
	if err := how.intent.advance(m.cfg.StateDir, Used, member, cluster); err != nil {
		return fmt.Errorf("record what this machine is: %w", err)
	}
	return nil
}

// serve waits until ctx ends (nil) or the server does (an error).
func (m *Member) serve(ctx context.Context, e *embed.Etcd, restarted bool) error {
	began := time.Now()
	ticker := time.NewTicker(patienceStep / 3)
	defer ticker.Stop()
	m.waiting()
	quorum := e.Server.ReadyNotify()
	compared := make(chan error, 1)
	var ready <-chan time.Time
	var background sync.WaitGroup
	defer m.metrics.ready.Set(0)
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case <-quorum:
			quorum = nil
			ready = time.After(compareWait)
			// Not waited for at the end: it may wait for others, and has no context.
			go func() { compared <- m.compare(e.Server, restarted) }()
		case err := <-compared:
			if err != nil {
				return err
			}
			if ready != nil {
				ready = time.After(0)
			}
		case <-ready:
			ready = nil
			m.admitted.Store(true)
			ticker.Stop()
			m.cfg.Logger.Info("etcd member serves", "member", m.cfg.Name, "took", time.Since(began).Round(time.Millisecond))
			m.cfg.Notify("READY=1")
			m.metrics.ready.Set(1)
			background.Go(func() { m.watch(ctx, e.Server) })
			background.Go(func() { m.guardLeader(ctx, e.Server) })
		case <-ticker.C:
			m.waiting()
		case <-ctx.Done():
			return nil
		case <-e.Server.StopNotify():
			return m.stopped(e)
		case err := <-e.Err():
			return fmt.Errorf("etcd member %s: %w: %w", m.cfg.Name, ErrStopped, orUnknown(err))
		}
	}
}

// waiting asks the supervisor for more time: the start goes on.
func (m *Member) waiting() {
	m.cfg.Notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", patienceStep.Microseconds()))
	m.status("waiting for a quorum")
}

func (m *Member) status(format string, args ...any) {
	m.cfg.Notify("STATUS=" + fmt.Sprintf(format, args...))
}

// ended keeps what etcd logs as the reason of its end.
func (m *Member) ended(why string) {
	m.why.Store(&why)
	if strings.Contains(why, "permanently removed from the cluster") {
		m.removed.Store(true)
	}
}

// stopped says why the server stopped by itself, and records a removal, so that
// a restart does not try again.
func (m *Member) stopped(e *embed.Etcd) error {
	if !m.removed.Load() && e.Server.Cluster().Member(e.Server.MemberID()) != nil {
		why := "no reason given"
		if s := m.why.Load(); s != nil {
			why = *s
		}
		return fmt.Errorf("etcd member %s: %w: %s", m.cfg.Name, ErrStopped, why)
	}
	err := error(refuse(ErrRemoved, "member %s (%s)", m.cfg.Name, e.Server.MemberID()).
		WithHint("hactl etcd member replace %s, on this machine, makes it a member again", m.cfg.Name))
	in, rerr := ReadIntent(m.cfg.StateDir)
	if rerr == nil {
		rerr = in.advance(m.cfg.StateDir, Removed, uint64(e.Server.MemberID()), uint64(e.Server.Cluster().ID()))
	}
	return errors.Join(err, rerr)
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("a listener ended")
	}
	return err
}

// close closes the server, or gives up after CloseTimeout: etcd's Close can hang.
func (m *Member) close(e *embed.Etcd) error {
	m.status("closing")
	began := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-e.Server.ReadyNotify():
		default:
			// Close would wait for listeners that wait for a quorum.
			e.Server.HardStop()
		}
		e.Close()
	}()
	select {
	case <-done:
		m.cfg.Logger.Info("etcd member closed", "member", m.cfg.Name, "took", time.Since(began).Round(time.Millisecond))
		return nil
	case <-time.After(m.cfg.CloseTimeout):
		return fmt.Errorf("etcd member %s: %w (%v)", m.cfg.Name, ErrCloseTimeout, m.cfg.CloseTimeout)
	}
}
