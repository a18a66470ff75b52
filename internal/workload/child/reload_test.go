package child

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/workloadtest"
)

func TestReload(t *testing.T) {
	unit := func(name string, flags ...string) workload.Unit {
		return notifying(workloadtest.Unit(t, name, append([]string{"-ready", "0s"}, flags...)...))
	}
	same, gone, changed, stopped, changedStopped := unit("same"), unit("gone"), unit("changed"), unit("stopped"), unit("changed-stopped")
	s, _ := running(t, configFor(t, same, gone, changed, stopped, changedStopped))
	awaitActive(t, s, "same", "gone", "changed", "stopped", "changed-stopped")
	for _, name := range []string{"stopped", "changed-stopped"} {
		if err := s.Stop(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	pid := map[string]int{}
	for _, name := range []string{"same", "gone", "changed"} {
		pid[name] = stateOf(t, s, name).MainPID
	}
	changed.Env = append(changed.Env, "A=1")
	changedStopped.Env = append(changedStopped.Env, "A=1")
	fresh := unit("fresh")
	fresh.After = []string{"changed"}
	wanted := []workload.Unit{fresh, same, changed, stopped, changedStopped}

	got, err := s.Reload(t.Context(), wanted)
	want := Changes{Started: []string{"fresh"}, Restarted: []string{"changed"}, Changed: []string{"changed-stopped"}, Stopped: []string{"gone"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("Reload = %+v, %v; want %+v", got, err, want)
	}
	awaitActive(t, s, "fresh", "same", "changed")
	if s.unit("gone") != nil || alive(pid["gone"]) != nil {
		t.Error("the unit that is gone is still there")
	}
	if p := stateOf(t, s, "same").MainPID; p != pid["same"] {
		t.Errorf("the same unit was restarted: pid %d, before %d", p, pid["same"])
	}
	if p := stateOf(t, s, "changed").MainPID; p == pid["changed"] {
		t.Error("the changed unit still has its old process")
	}
	for _, name := range []string{"stopped", "changed-stopped"} {
		if st := stateOf(t, s, name); st.Active != workload.Inactive {
			t.Errorf("%s: %+v, want it to stay stopped", name, st)
		}
	}
	states, err := s.Units(t.Context())
	if err != nil || len(states) != 5 || states[0].Name != "fresh" {
		t.Errorf("Units = %+v, %v; want the new order", states, err)
	}
	if got, err := s.Reload(t.Context(), wanted); err != nil || !reflect.DeepEqual(got, Changes{}) {
		t.Errorf("again: %+v, %v; want no change", got, err)
	}
}

func TestReloadRefusesBadUnitsAndChangesNothing(t *testing.T) {
	s, _ := running(t, configFor(t, workloadtest.Unit(t, "u")))
	awaitActive(t, s, "u")
	pid := stateOf(t, s, "u").MainPID
	_, err := s.Reload(t.Context(), []workload.Unit{{Name: "v", Exec: []string{"relative"}}})
	if err == nil || !strings.Contains(err.Error(), "relative") {
		t.Errorf("Reload = %v", err)
	}
	if st := stateOf(t, s, "u"); st.MainPID != pid {
		t.Errorf("state %+v, want pid %d still", st, pid)
	}
}

func TestReloadNeedsARunningSupervisor(t *testing.T) {
	s, err := New(configFor(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reload(t.Context(), nil); !errors.Is(err, ErrStopping) {
		t.Errorf("Reload = %v, want ErrStopping", err)
	}
}
