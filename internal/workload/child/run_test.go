package child

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hactl/hactl/internal/workload"
)

// What is due when, for each thing that a process may have said.
func TestDue(t *testing.T) {
	for name, c := range map[string]struct {
		watchdog time.Duration
		say      []string // one each second
		at       time.Duration
		reason   string
	}{
		"silent":                    {0, nil, 90 * time.Second, "start timeout"},
		"silent, watched":           {3 * time.Second, nil, 90 * time.Second, "start timeout"},
		"status only":               {0, []string{"STATUS=x"}, 90 * time.Second, "start timeout"},
		"asks for more time":        {0, []string{"EXTEND_TIMEOUT_USEC=120000000"}, 120 * time.Second, "start timeout"},
		"less time is not taken":    {0, []string{"EXTEND_TIMEOUT_USEC=1"}, 90 * time.Second, "start timeout"},
		"ready":                     {0, []string{"READY=1"}, 0, ""},
		"ready, watched":            {3 * time.Second, []string{"STATUS=", "READY=1"}, 4 * time.Second, "watchdog"},
		"pinged":                    {3 * time.Second, []string{"READY=1", "WATCHDOG=1"}, 4 * time.Second, "watchdog"},
		"ready again is no ping":    {3 * time.Second, []string{"READY=1", "READY=1"}, 3 * time.Second, "watchdog"},
		"status is no ping":         {3 * time.Second, []string{"READY=1", "STATUS=fine"}, 3 * time.Second, "watchdog"},
		"another period":            {3 * time.Second, []string{"READY=1", "WATCHDOG_USEC=1500000"}, 1500 * time.Millisecond, "watchdog"},
		"no watchdog by itself":     {0, []string{"READY=1", "WATCHDOG_USEC=1500000"}, 0, ""},
		"trigger":                   {3 * time.Second, []string{"READY=1", "WATCHDOG=trigger"}, 0, "watchdog (asked for by the process)"},
		"stopping, watched no more": {time.Second, []string{"READY=1", "STOPPING=1"}, 6 * time.Second, "stop timeout"},
		"stopping twice":            {0, []string{"STOPPING=1", "STOPPING=1"}, 5 * time.Second, "stop timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				r := &run{
					spec: workload.Unit{Notify: true, StopTimeout: 5 * time.Second},
					wake: make(chan struct{}, 1), period: c.watchdog, ping: began, startBy: began.Add(90 * time.Second),
				}
				for i, s := range c.say {
					if i > 0 {
						<-time.After(time.Second)
					}
					r.hear(parseMessage([]byte(s)))
				}
				at, reason := r.due()
				if reason != c.reason || (reason != "" && at.Sub(began) != c.at) {
					t.Errorf("%q at %v, want %q at %v", reason, at.Sub(began), c.reason, c.at)
				}
				if len(c.say) > 0 && len(r.wake) != 1 {
					t.Error("the watcher was not woken")
				}
			})
		})
	}
}
