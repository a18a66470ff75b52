package child

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/process"
	"github.com/hactl/hactl/internal/workload"
)

// run is one process of a unit, from its start to its end. Its fields are
// guarded by the unit's mutex.
type run struct {
	spec     workload.Unit
	proc     *process.Process
	wake     chan struct{} // the fields below changed
	ready    bool
	stopping time.Time     // when it said STOPPING=1
	ping     time.Time     // of the last WATCHDOG=1, or READY=1
	period   time.Duration // of the watchdog; 0: none
	startBy  time.Time
	trigger  bool // it asked for the watchdog's end itself
}

// hear applies a message.
func (r *run) hear(m message) {
	now := time.Now()
	if m.ready && !r.ready {
		r.ready, r.ping = true, now
	}
	if m.ping {
		r.ping = now
	}
	if m.stopping && r.stopping.IsZero() {
		r.stopping = now
	}
	if m.extend > 0 && now.Add(m.extend).After(r.startBy) {
		r.startBy = now.Add(m.extend)
	}
	if m.watchdog > 0 && r.period > 0 {
		r.period = m.watchdog
	}
	r.trigger = r.trigger || m.trigger
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// due says when something is due next if the process stays silent, and what;
// an empty reason: nothing is.
func (r *run) due() (at time.Time, reason string) {
	switch {
	case !r.stopping.IsZero():
		return r.stopping.Add(r.spec.StopTimeout), "stop timeout"
	case r.trigger:
		return r.ping, "watchdog (asked for by the process)"
	case !r.ready:
		return r.startBy, "start timeout"
	case r.period > 0:
		return r.ping.Add(r.period), "watchdog"
	default:
		return time.Time{}, ""
	}
}

// late is how long after its time a timer may fire without a doubt that this
// very process was stopped meanwhile.
const late = 50 * time.Millisecond

// runOnce starts the unit's process and returns when it has ended with all that
// it left behind, saying why. It stops the process when the life ends.
func (u *unit) runOnce(l *life) string {
	r, err := u.launch()
	if err != nil {
		u.finish(l, err.Error())
		return err.Error()
	}
	reason := u.watch(l, r)
	exit := exitOf(reason, r.proc.Wait())
	left, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	if err := r.proc.KillRemaining(left); err != nil {
		u.log.Error("processes left behind", "err", err)
	}
	u.finish(l, exit)
	return exit
}

// launch starts the process. The unit's mutex is held until run is set, so that
// a notification sent at once finds it.
func (u *unit) launch() (*run, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	spec := u.spec
	cfg := process.Config{Path: spec.Exec[0], Args: spec.Exec[1:], Env: environ(spec, u.env, os.Getenv)}
	if spec.LogFile != "" {
		f, err := openLog(spec.LogFile, u.maxLog)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cfg.Stdout, cfg.Stderr = f, f
	}
	p, err := process.Start(cfg)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	u.run = &run{
		spec: spec, proc: p, wake: make(chan struct{}, 1),
		ready: !spec.Notify, ping: now, period: spec.WatchdogSec, startBy: now.Add(spec.StartTimeout),
	}
	u.setLocked(func(s *workload.State) {
		s.Active, s.Status, s.MainPID = workload.Activating, "", p.PID()
		if !spec.Notify {
			s.Active = workload.Active
		}
	})
	return u.run, nil
}

// finish records the end of a process, or of an attempt to start one.
func (u *unit) finish(l *life, exit string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.run = nil
	u.ended++
	u.setLocked(func(s *workload.State) {
		s.MainPID, s.LastExit, s.Status = 0, exit, ""
		s.Active = workload.Activating
		if l.ctx.Err() != nil {
			s.Active = workload.Deactivating // live says what comes next
		}
	})
	u.announce() // the same failure twice changes nothing in the state
}

// watch returns when the main process has ended; reason is not empty when the
// supervisor ended it on its own account.
func (u *unit) watch(l *life, r *run) (reason string) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		u.mu.Lock()
		at, what := r.due()
		u.mu.Unlock()
		if what != "" {
			timer.Reset(time.Until(at))
		} else {
			timer.Reset(time.Hour)
		}
		select {
		case <-r.proc.Done():
			return ""
		case <-l.ctx.Done():
			return u.stop(l, r)
		case <-r.wake:
		case <-timer.C:
			if what == "" || !u.overdue(r, at) {
				continue
			}
			if what == "start timeout" {
				if more := u.stop(l, r); more != "" {
					return what + ", " + more
				}
				return what
			}
			u.log.Error("unit is killed", "err", what)
			u.kill(r)
			return what
		}
	}
}

// overdue reports whether what was due at its time still is. When the timer
// fired late, the supervisor itself did not run; then messages may wait to be
// read, and the process gets a moment more.
func (u *unit) overdue(r *run, at time.Time) bool {
	if time.Since(at) > late {
		select {
		case <-r.proc.Done():
		case <-time.After(late):
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now, what := r.due()
	return what != "" && !now.After(at)
}

// stop ends the process: SIGTERM, and SIGKILL after StopTimeout or when the life
// is ended by force. It returns when the main process has ended; reason says
// that it did not by itself.
func (u *unit) stop(l *life, r *run) (reason string) {
	u.set(func(s *workload.State) { s.Active = workload.Deactivating })
	if !isClosed(l.force) {
		_ = r.proc.SignalGroup(syscall.SIGTERM)
		_ = r.proc.SignalGroup(syscall.SIGCONT) // a stopped process must be able to end
	}
	timer := time.NewTimer(r.spec.StopTimeout)
	defer timer.Stop()
	select {
	case <-r.proc.Done():
		return ""
	case <-l.force:
	case <-timer.C:
		reason = "stop timeout"
		u.log.Error("unit is killed", "err", reason)
	}
	u.kill(r)
	return reason
}

// kill ends all processes of r and returns when the main one has ended. The
// state says so when even that takes longer than killGrace.
func (u *unit) kill(r *run) {
	u.set(func(s *workload.State) { s.Active = workload.Deactivating })
	if err := r.proc.SignalTree(syscall.SIGKILL); err != nil {
		u.log.Error("kill", "err", err)
	}
	timer := time.NewTimer(killGrace)
	defer timer.Stop()
	select {
	case <-r.proc.Done():
		return
	case <-timer.C:
	}
	u.log.Error("unit does not end", "pid", r.proc.PID(), "err", ErrUnkillable)
	u.set(func(s *workload.State) {
		s.Active, s.Status = workload.Failed, fmt.Sprintf("pid %d %v", r.proc.PID(), ErrUnkillable)
	})
	<-r.proc.Done()
}
