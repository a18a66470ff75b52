package singleton

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/lease"
)

// Notifier tells the supervisor (systemd, or hactl's own) how podmaster is.
//
// While holding, its watchdog is a second dead man's switch beside the guard: it
// is pinged by answered renewals only, and each ping sets it to what is left of
// the term, less margin for the supervisor's own time. While waiting it is pinged
// as long as the campaign's loop goes round, whatever the store answers: killing
// a podmaster whose etcd is down mends nothing.
type Notifier struct {
	Send     func(state string) error // sd_notify; nil: no supervisor
	Watchdog time.Duration            // WATCHDOG_USEC; 0: none
	Elector  *lease.Elector
	Margin   time.Duration // from the supervisor's kill to the deadline; default 3/5 of StopTime, after our own stop
	PID      func() int    // of the work, for the status line; may be nil

	ready  bool
	status string
	pinged time.Duration // Status.Renewed of the last ping
	round  int
}

// Run sends READY=1 when the campaign works, STATUS at each change, and the
// watchdog's pings, until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	if n.Send == nil {
		return
	}
	clock := n.Elector.Config().Clock
	for {
		s, changed := n.Elector.Status()
		if lines := n.lines(s, clock.Now()); len(lines) > 0 {
			_ = n.Send(strings.Join(lines, "\n")) // a supervisor that is gone needs no word
		}
		var tick <-chan time.Time
		if n.Watchdog > 0 {
			tick = time.After(n.Watchdog / 3)
		}
		select {
		case <-changed:
		case <-tick:
		case <-ctx.Done():
			_ = n.Send("STOPPING=1")
			return
		}
	}
}

// lines is what there is to tell at now.
func (n *Notifier) lines(s lease.Status, now time.Duration) []string {
	var out []string
	if !n.ready && s.Rounds > 0 && s.Err == nil {
		n.ready = true
		out = append(out, "READY=1")
	}
	if text := n.text(s); text != n.status {
		n.status = text
		out = append(out, "STATUS="+text)
	}
	if n.Watchdog == 0 {
		return out
	}
	cfg := n.Elector.Config()
	switch s.Role {
	case lease.Holding, lease.Stopping:
		margin := n.Margin
		if margin == 0 {
			margin = cfg.StopTime * 3 / 5
		}
		left := s.Renewed + cfg.TTL - margin - now
		if s.Renewed > n.pinged && left > 0 {
			n.pinged = s.Renewed
			out = append(out, fmt.Sprintf("WATCHDOG_USEC=%d", left.Microseconds()), "WATCHDOG=1")
		}
	default:
		if n.pinged != 0 {
			n.pinged = 0
			out = append(out, fmt.Sprintf("WATCHDOG_USEC=%d", n.Watchdog.Microseconds()))
		}
		// One round lasts at most two calls and a pause.
		if s.Rounds == 0 || s.Rounds != n.round || now-s.Round < max(3*cfg.CallTimeout, 2*cfg.TTL) {
			n.round = s.Rounds
			out = append(out, "WATCHDOG=1")
		}
	}
	return out
}

func (n *Notifier) text(s lease.Status) string {
	switch {
	case s.Role == lease.Holding:
		pid := ""
		if n.PID != nil && n.PID() != 0 {
			pid = fmt.Sprintf(", pid %d", n.PID())
		}
		return fmt.Sprintf("holding, token %d%s", s.Token, pid)
	case s.Role == lease.Stopping:
		return fmt.Sprintf("stopping, token %d", s.Token)
	case s.Err != nil:
		return "waiting; etcd does not answer"
	case s.Record.Paused:
		return "waiting; paused by an order"
	case s.Role == lease.Waiting && s.Record.Token != 0 && !s.Record.Ended:
		return fmt.Sprintf("waiting; %s holds, token %d", s.Record.Holder, s.Record.Token)
	default:
		return string(s.Role)
	}
}
