package systemd

import (
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/hactl/hactl/internal/workload"
)

func TestMemory(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	up := workload.State{Name: "u", Active: workload.Active, MainPID: 7}
	var m memory
	keep := func(s workload.State) { _, seen, _ := m.recall("u", now); m.keep(s, seen, now) }
	recalls := func(at time.Time) bool { s, _, ok := m.recall("u", at); return ok && s.MainPID == 7 }

	if keep(up); recalls(now) {
		t.Error("it remembers though no signals come")
	}
	m.follow(true)
	if recalls(now) {
		t.Error("it remembers what was before the signals came")
	}
	if keep(workload.State{Name: "u", Active: workload.Inactive, MainPID: 7}); recalls(now) {
		t.Error("it remembers a unit that is not active, which systemd may unload")
	}
	if keep(up); !recalls(now) {
		t.Error("it does not remember an active unit")
	}
	if recalls(now.Add(memoryAge + 1)) {
		t.Error("it believes a state for ever")
	}
	if m.forget("u"); recalls(now) {
		t.Error("it remembers a unit that changed")
	}
	_, seen, _ := m.recall("u", now)
	m.forget("u") // while the answer was under way
	if m.keep(up, seen, now); recalls(now) {
		t.Error("it keeps an answer that is older than the last change")
	}
	_, seen, _ = m.recall("u", now)
	m.follow(true)
	if m.keep(up, seen, now); recalls(now) {
		t.Error("it keeps an answer that is older than systemd's reload")
	}
	keep(up)
	if m.follow(false); recalls(now) {
		t.Error("it remembers though signals come no more")
	}
}

// What systemd says of itself makes everything that is known doubtful.
func TestReloadForgetsAll(t *testing.T) {
	m, err := New(Config{Units: []string{"u"}})
	if err != nil {
		t.Fatal(err)
	}
	m.following(true)
	_, seen, _ := m.known.recall("u", time.Now())
	m.known.keep(workload.State{Name: "u", Active: workload.Active}, seen, time.Now())
	if _, _, ok := m.known.recall("u", time.Now()); !ok {
		t.Fatal("nothing is remembered")
	}
	changed := m.Changed()
	m.heard(&godbus.Signal{Path: managerPath, Name: managerIface + ".Reloading", Body: []any{true}}, map[godbus.ObjectPath]string{"/u": "u"})
	if _, _, ok := m.known.recall("u", time.Now()); ok {
		t.Error("a state outlives systemd's reload")
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
}
