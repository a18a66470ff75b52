package systemd

import (
	"fmt"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/workload"
)

// stateOf reads a unit's and its service's properties.
func stateOf(unit string, props map[string]any) workload.State {
	str := func(k string) string { s, _ := props[k].(string); return s }
	at := func(k string) time.Time {
		if us, _ := props[k].(uint64); us != 0 {
			return time.UnixMicro(int64(us))
		}
		return time.Time{}
	}
	s := workload.State{Name: unit, Status: str("StatusText"), LastExit: lastExit(props)}
	if pid, ok := props["MainPID"].(uint32); ok {
		s.MainPID = int(pid)
	}
	if n, ok := props["NRestarts"].(uint32); ok {
		s.Restarts = int(n)
	}
	switch str("ActiveState") {
	case "active", "reloading", "refreshing":
		s.Active, s.Since = workload.Active, at("ActiveEnterTimestamp")
	case "activating":
		s.Active, s.Since = workload.Activating, at("StateChangeTimestamp")
	case "deactivating":
		s.Active, s.Since = workload.Deactivating, at("StateChangeTimestamp")
	case "failed":
		s.Active, s.Since = workload.Failed, at("StateChangeTimestamp")
	default:
		s.Active, s.Since = workload.Inactive, at("StateChangeTimestamp")
	}
	return s
}

// lastExit says why the main process ended; empty when none has, as far as these
// properties tell.
func lastExit(props map[string]any) string {
	code, _ := props["ExecMainCode"].(int32)
	status, _ := props["ExecMainStatus"].(int32)
	result, _ := props["Result"].(string)
	var exit string
	switch code { // of waitid(2)
	case 1: // CLD_EXITED
		exit = fmt.Sprintf("exit status %d", status)
	case 2, 3: // CLD_KILLED, CLD_DUMPED
		exit = "signal: " + syscall.Signal(status).String()
	default:
		return ""
	}
	switch result {
	case "watchdog":
		return "watchdog"
	case "timeout":
		return "timeout: " + exit
	case "oom-kill":
		return "out of memory: " + exit
	default:
		return exit
	}
}
