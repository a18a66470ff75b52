package main

import (
	"context"
	"time"

	"github.com/hactl/hactl/internal/singleton"
)

// stoppedArg is how the ExecStopPost= of podmaster's own unit calls it.
const stoppedArg = "__stopped"

// hiddenMain is what podmaster does when it calls itself.
func hiddenMain(args []string) (err error, done bool) {
	if len(args) != 2 {
		return nil, false
	}
	switch args[1] {
	case singleton.GuardArg:
		return singleton.GuardMain(releaseOrphan), true
	case singleton.UnitGuardArg:
		return singleton.UnitGuardMain(releaseOrphan), true
	case singleton.GateArg:
		return singleton.GateMain(), true
	case stoppedArg:
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		return stopped(ctx), true
	default:
		return nil, false
	}
}
