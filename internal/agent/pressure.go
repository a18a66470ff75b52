package agent

import (
	"context"
	"fmt"

	"github.com/prometheus/procfs"
)

// overloaded is the share of the last ten seconds, in percent, in which some
// task waited for a processor, from which on a slow answer says nothing about
// the one that gives it. A machine at work has 5 to 40; measured here with three
// control planes and a compiler on two processors: 90 and more.
const overloaded = 80

// cpuPressure errs when the machine has too much to do. A restart would add to
// it: a kube-apiserver needs some seconds of a whole processor to start.
func cpuPressure(context.Context) error {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return nil // nothing known is no reason to hold
	}
	psi, err := proc.PSIStatsForResource("cpu")
	if err != nil || psi.Some == nil {
		return nil // a kernel without pressure stall information
	}
	if psi.Some.Avg10 > overloaded {
		return fmt.Errorf("tasks wait for a processor %.0f %% of the time", psi.Some.Avg10)
	}
	return nil
}
