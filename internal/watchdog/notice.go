package watchdog

import "time"

// NoticeHistory is what was seen of one Notice. The zero value knows nothing.
type NoticeHistory struct {
	Fails, Good int
	On          bool
	Detail      string // of the last failed check
}

// Observe returns the history with the result of one more check. It is pure: Fall
// failures turn it on, Rise good answers in a row off.
func (h NoticeHistory) Observe(p Policy, err error) NoticeHistory {
	if err != nil {
		h.Fails, h.Good, h.Detail = h.Fails+1, 0, err.Error()
	} else {
		h.Good++
		if h.Good >= p.Rise {
			h.Fails = 0
		}
	}
	switch {
	case h.Fails >= p.Fall:
		h.On = true
	case h.Fails == 0:
		h.On = false
	}
	return h
}

// DecideNotice says what follows from it: a warning or nothing, and never a
// restart. It is pure.
func DecideNotice(reason Reason, h NoticeHistory) Action {
	if h.On {
		return Action{Warn, reason, h.Detail}
	}
	return Action{None, Healthy, ""}
}

// watch takes the result of a notice's check.
func (w *Watchdog) watch(n *target, err error, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n.noticed = n.noticed.Observe(w.cfg.Policy, err)
	a := w.decideNotice(n.notice, n.noticed)
	n.lastErr = n.noticed.Detail
	w.announce(n, a, now)
}
