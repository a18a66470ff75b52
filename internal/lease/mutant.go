package lease

import "time"

// mutant breaks one rule, so that the model test can show that it would notice.
// Only tests of this package can set it: New leaves it zero.
type mutant string

const (
	deadlineFromAnswer mutant = "the deadline counts from the answer"
	noStopMargin       mutant = "no time is left for stopping"
	ignoreSkew         mutant = "candidates ignore the skew of clocks"
	firstSight         mutant = "candidates count from the first sight of a holder"
	deletedIsReleased  mutant = "a deleted record counts as a release"
	takeTooEarly       mutant = "candidates wait less than the TTL"
	releaseFirst       mutant = "the lock is released before the work has stopped"
	extendUnanswered   mutant = "a renewal counts before it is answered"
)

func (m mutant) sent(sent time.Duration, clock Clock) time.Duration {
	if m == deadlineFromAnswer {
		return clock.Now()
	}
	return sent
}

func (m mutant) self(me self) self {
	switch m {
	case ignoreSkew:
		me.maxSkew = 0
	case takeTooEarly:
		me.maxSkew = -0.2
	}
	return me
}

func (m mutant) sight(old, s sight) sight {
	switch {
	case m == firstSight && old.started && s.rec.Token == old.rec.Token:
		s.at = old.at
	case m == deletedIsReleased && s.lost:
		s.lost, s.freeAt = false, s.at
	}
	return s
}
