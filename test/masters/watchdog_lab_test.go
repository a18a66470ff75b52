//go:build lab

package masters

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/event"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/testwait"
)

// events asks one host for all masters' events after a moment.
func (m *masters) events(t *testing.T, host string, after time.Time, unit string) []event.Event {
	t.Helper()
	var r struct{ Events []event.Event }
	o := m.must(t, host, "events", "-o", "json", "--since", "all", "--unit", unit)
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		t.Fatalf("%v: %v", err, o)
	}
	return slices.DeleteFunc(r.Events, func(e event.Event) bool { return !e.Time.After(after) })
}

// awaitEvent waits for the first event that ok says is it.
func (m *masters) awaitEvent(t *testing.T, host, what string, after time.Time, unit string, ok func(event.Event) bool) event.Event {
	t.Helper()
	var found event.Event
	testwait.For(t, what, patience, func() error {
		all := m.events(t, host, after, unit)
		if i := slices.IndexFunc(all, ok); i >= 0 {
			found = all[i]
			return nil
		}
		return fmt.Errorf("events: %v", all)
	})
	return found
}

// mainPID is the main process of a unit; 0: it has none.
func (m *masters) mainPID(t *testing.T, host, unit string) int {
	t.Helper()
	o := m.command(t.Context(), host, "systemctl", "show", "-P", "MainPID", unit)
	pid, err := strconv.Atoi(strings.TrimSpace(o.stdout))
	if err != nil {
		t.Fatalf("%v: %v", err, o)
	}
	return pid
}

func (m *masters) shell(t *testing.T, host, script string) outcome {
	t.Helper()
	o := m.command(t.Context(), host, "bash", "-c", script)
	if o.code != 0 {
		t.Fatal(o)
	}
	return o
}

func (m *masters) ready(t *testing.T, host string) {
	t.Helper()
	testwait.For(t, "the API server of "+host, patience, func() error {
		o := m.run(t.Context(), host, "status", "-o", "json")
		var r status.Report
		if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
			return fmt.Errorf("%w: %v", err, o)
		}
		for _, a := range r.APIServers {
			if a.Master == host && a.Ready != status.Yes {
				return errors.New("not ready: " + a.Why)
			}
		}
		return nil
	})
}

func (m *masters) restarts(t *testing.T, host string, after time.Time) []event.Event {
	t.Helper()
	return slices.DeleteFunc(m.events(t, host, after, ""), func(e event.Event) bool {
		return e.Source != "watchdog" || e.Action != "restart" || e.Result == "begun"
	})
}

// What ends is started by systemd, what hangs by the watchdog, each once, and
// nothing is touched while etcd is what is ill. What it takes is printed.
func TestWatchdogOnSystemdHosts(t *testing.T) {
	names := []string{"m1", "m2", "m3"}
	m := up(t, 3)
	m.configure(t, names...)
	m.bootstrap(t, names)
	m.healthy(t, names...)

	t.Run("Killed", func(t *testing.T) {
		before := m.mainPID(t, "m2", "kube-apiserver")
		killed := time.Now()
		m.shell(t, "m2", fmt.Sprintf("kill -KILL %d", before))
		ended := m.awaitEvent(t, "m1", "the end as an event", killed, "kube-apiserver", func(e event.Event) bool { return e.Master == "m2" && e.Action == "ended" })
		active := m.awaitEvent(t, "m1", "active again as an event", killed, "kube-apiserver", func(e event.Event) bool { return e.Master == "m2" && e.Action == "active" })
		if ended.Reason != "signal: killed" || active.Time.Before(ended.Time) {
			t.Errorf("ended: %+v, then %+v", ended, active)
		}
		began, err := strconv.ParseFloat(strings.TrimSpace(m.shell(t, "m2", `date -d "$(systemctl show --timestamp=us+utc -P ExecMainStartTimestamp kube-apiserver)" +%s.%N`).stdout), 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("measure: killed: end noticed after %.3fs, next process begun after %.3fs, active after %.1fs",
			ended.Time.Sub(killed).Seconds(), began-float64(killed.UnixNano())/1e9, active.Time.Sub(killed).Seconds())
		m.ready(t, "m2")
		if got := m.restarts(t, "m1", killed); len(got) > 0 {
			t.Errorf("the watchdog restarted what systemd did: %+v", got)
		}
	})

	t.Run("Stopped", func(t *testing.T) {
		before := m.mainPID(t, "m2", "kube-apiserver")
		stopped := time.Now()
		m.shell(t, "m2", fmt.Sprintf("kill -STOP %d", before))
		var ejected time.Time
		testwait.For(t, "m2 to be ejected by the balancer of m1", patience, func() error {
			o := m.must(t, "m1", "lb", "status", "-o", "json")
			var s struct {
				Backends []struct{ Name, State string }
			}
			if err := json.Unmarshal([]byte(o.stdout), &s); err != nil {
				return err
			}
			for _, b := range s.Backends {
				if b.Name == "m2" && b.State != "ready" {
					ejected = time.Now()
					return nil
				}
			}
			return fmt.Errorf("%v", o)
		})
		done := m.awaitEvent(t, "m1", "the restart as an event", stopped, "kube-apiserver", func(e event.Event) bool {
			return e.Master == "m2" && e.Source == "watchdog" && e.Action == "restart" && e.Result != "begun"
		})
		begun := m.awaitEvent(t, "m1", "its begin", stopped, "kube-apiserver", func(e event.Event) bool { return e.Master == "m2" && e.Result == "begun" })
		if done.Result != "ok" || !strings.Contains(done.Reason, "stopped") {
			t.Errorf("restart: %+v", done)
		}
		if ejected.After(done.Time) {
			t.Error("it was ejected only after its restart")
		}
		t.Logf("measure: stopped: ejected after %.2fs (as seen by polling), restart begun after %.2fs, active after %.2fs",
			ejected.Sub(stopped).Seconds(), begun.Time.Sub(stopped).Seconds(), done.Time.Sub(stopped).Seconds())
		m.ready(t, "m2")
		if got := m.restarts(t, "m1", stopped); len(got) != 1 {
			t.Errorf("restarts: %+v, want that one alone", got)
		}
		if now := m.mainPID(t, "m2", "kube-apiserver"); now == before || now == 0 {
			t.Errorf("main process %d, before %d", now, before)
		}
	})

	t.Run("Frozen", func(t *testing.T) {
		frozen := time.Now()
		m.shell(t, "m3", "systemctl freeze hactl-lb")
		done := m.awaitEvent(t, "m1", "the restart of a frozen unit", frozen, "hactl-lb", func(e event.Event) bool {
			return e.Master == "m3" && e.Source == "watchdog" && e.Action == "restart" && e.Result == "ok" || e.Master == "m3" && e.Action == "active"
		})
		t.Logf("measure: frozen: %+v after %.2fs", done, done.Time.Sub(frozen).Seconds())
	})

	t.Run("SickEtcd", func(t *testing.T) {
		m.healthy(t, names...)
		pids := map[string]int{}
		for _, n := range names {
			pids[n] = m.mainPID(t, n, "kube-apiserver")
		}
		sick := time.Now()
		m.shell(t, "m1", "systemctl stop hactl-etcd")
		m.shell(t, "m2", "systemctl stop hactl-etcd")
		testwait.For(t, "the watchdog of m3 to find etcd sick", patience, func() error {
			var r struct {
				Watchdogs []struct{ Sick map[string]string }
			}
			o := m.must(t, "m3", "watchdog", "status", "-o", "json")
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
				return err
			}
			if len(r.Watchdogs) != 1 || r.Watchdogs[0].Sick["etcd"] == "" {
				return fmt.Errorf("%v", o)
			}
			return nil
		})
		// Long enough for several restarts, were the API servers to blame.
		since := time.Now()
		testwait.For(t, "half a minute without quorum", patience, func() error {
			if time.Since(since) < 30*time.Second {
				return errors.New("not yet")
			}
			return nil
		})
		for _, n := range names {
			if now := m.mainPID(t, n, "kube-apiserver"); now != pids[n] {
				t.Errorf("%s: the API server was restarted while etcd had no quorum", n)
			}
		}
		if got := m.restarts(t, "m3", sick); len(got) > 0 {
			t.Errorf("restarts while etcd had no quorum: %+v", got)
		}
		m.shell(t, "m1", "systemctl start hactl-etcd")
		m.shell(t, "m2", "systemctl start hactl-etcd")
		m.healthy(t, names...)
	})

	t.Run("PauseOutlivesTheAgent", func(t *testing.T) {
		m.must(t, "m1", "watchdog", "pause", "--for", "1h", "--unit", "hactl-lb")
		m.shell(t, "m1", "systemctl restart hactl-agent")
		testwait.For(t, "the pause after the agent's restart", patience, func() error {
			o := m.run(t.Context(), "m1", "watchdog", "status")
			if !strings.Contains(o.stdout, "paused by hactl on m1 until") {
				return fmt.Errorf("%v", o)
			}
			return nil
		})
		m.must(t, "m1", "watchdog", "resume", "--all")
	})

	t.Run("Usage", func(t *testing.T) {
		// In its sandbox the agent sees what the other units' processes use.
		testwait.For(t, "what the units use", patience, func() error {
			o := m.command(t.Context(), "m1", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9446; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; grep ^hactl_watchdog_usage <&3")
			for _, unit := range []string{"kube-apiserver", "hactl-etcd", "hactl-lb", "podmaster@kube-scheduler"} {
				for _, resource := range []string{"memory", "files", "goroutines"} {
					if unit == "kube-apiserver" && resource == "goroutines" {
						continue // without a limit it is not asked
					}
					key := fmt.Sprintf(`hactl_watchdog_usage{resource="%s",unit="%s"} `, resource, unit)
					_, rest, ok := strings.Cut(o.stdout, key)
					if !ok || strings.HasPrefix(rest, "0\n") {
						return fmt.Errorf("%s of %s is not known: %v", resource, unit, o)
					}
				}
			}
			t.Logf("measure: usage\n%s", o.stdout)
			return nil
		})
	})
}
