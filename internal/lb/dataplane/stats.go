package dataplane

import "sync/atomic"

// counters count what happened since the engine's start; rare things only, so
// that loops may share them.
type counters struct {
	accepted, shed, perClient, acceptPaused           atomic.Int64
	helloTimeout, helloAborted, helloTooBig, notTLS   atomic.Int64
	silentDropped, noBackend, noAnswer, deadPeer, cut atomic.Int64
	retries, replays, replayDenied                    atomic.Int64
}

// Stats are counts since the engine's start.
type Stats struct {
	Open          int64 `json:"open"`          // connections now
	Accepted      int64 `json:"accepted"`      // newcomers
	Shed          int64 `json:"shed"`          // refused at the bound of connections or descriptors
	PerClient     int64 `json:"perClient"`     // refused at the bound of one client
	SilentDropped int64 `json:"silentDropped"` // clients without a whole ClientHello that made room for others
	AcceptPaused  int64 `json:"acceptPaused"`  // times that no descriptor was left at all
	HelloTimeout  int64 `json:"helloTimeout"`  // clients without a ClientHello in time
	HelloAborted  int64 `json:"helloAborted"`  // clients that left before it
	HelloTooBig   int64 `json:"helloTooBig"`   // longer than MaxHello: passed on without replay
	NotTLS        int64 `json:"notTLS"`        // passed on without replay
	NoBackend     int64 `json:"noBackend"`     // ended because every backend had failed
	NoAnswer      int64 `json:"noAnswer"`      // ended because the last backend did not answer
	DeadPeer      int64 `json:"deadPeer"`      // reset because a peer's machine acknowledged nothing
	Cut           int64 `json:"cut"`           // reset because the backend was ejected
	Retries       int64 `json:"retries"`       // tries repeated after refusal, reset or ejection
	Replays       int64 `json:"replays"`       // tries repeated after silence
	ReplayDenied  int64 `json:"replayDenied"`  // not repeated because the budget was used up
}

// Stats returns the counts now.
func (e *Engine) Stats() Stats {
	c := &e.count
	return Stats{
		Open: e.open.Load(), Accepted: c.accepted.Load(), Shed: c.shed.Load(), PerClient: c.perClient.Load(),
		SilentDropped: c.silentDropped.Load(), AcceptPaused: c.acceptPaused.Load(),
		HelloTimeout: c.helloTimeout.Load(), HelloAborted: c.helloAborted.Load(), HelloTooBig: c.helloTooBig.Load(),
		NotTLS: c.notTLS.Load(), NoBackend: c.noBackend.Load(), NoAnswer: c.noAnswer.Load(),
		DeadPeer: c.deadPeer.Load(), Cut: c.cut.Load(),
		Retries: c.retries.Load(), Replays: c.replays.Load(), ReplayDenied: c.replayDenied.Load(),
	}
}
