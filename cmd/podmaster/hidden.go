package main

import (
	"context"
	"time"

	"github.com/hactl/hactl/internal/singleton"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// endBoundArg is how the ExecStopPost= of podmaster's own unit calls it, to end the
// unit that is bound to it: that must be quick also where the unit's stop hangs.
const endBoundArg = "__end-bound"

// hiddenMain is what podmaster does when it calls itself.
func hiddenMain(args []string) (err error, done bool) {
	if len(args) != 2 {
		return nil, false
	}
	switch args[1] {
	case singleton.GuardArg:
		return singleton.GuardMain(releaseOrphan), true
	case endBoundArg:
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		return systemd.EndBound(ctx), true
	default:
		return nil, false
	}
}
