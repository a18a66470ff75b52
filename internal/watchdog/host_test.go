package watchdog

import (
	"testing"
	"time"
)

func TestMark(t *testing.T) {
	vital := map[string]bool{"kube-apiserver": true, "hactl-etcd": true}
	unit := func(name string, k Kind, r Reason) TargetStatus {
		return TargetStatus{Unit: name, Action: Action{k, r, ""}}
	}
	fine := unit("hactl-etcd", None, Healthy)
	for name, c := range map[string]struct {
		look TargetStatus
		want bool
	}{
		"budget spent":           {unit("kube-apiserver", Hold, BudgetUsed), true},
		"supervisor silent":      {unit("kube-apiserver", Hold, Blind), true},
		"ends again and again":   {unit("kube-apiserver", Hold, Crashing), true},
		"a sick dependency":      {unit("kube-apiserver", Hold, Dependency), false},
		"paused":                 {unit("kube-apiserver", Hold, Paused), false},
		"not permitted":          {unit("kube-apiserver", Hold, Refused), false},
		"backing off":            {unit("kube-apiserver", Hold, BackingOff), false},
		"stopped on purpose":     {unit("kube-apiserver", None, NotRunning), false},
		"not vital, past budget": {unit("podmaster@x", Hold, BudgetUsed), false},
	} {
		var m Mark
		for i := range 121 {
			m = m.Next(MarkPolicy{}, vital, []TargetStatus{c.look, fine}, noon.Add(time.Duration(i)*time.Second))
			if m.On && i < 120 {
				t.Errorf("%s: marked after %d s already", name, i)
				break
			}
		}
		if m.On != c.want {
			t.Errorf("%s: marked is %v after 2 minutes, want %v", name, m.On, c.want)
		}
	}
}

func TestMarkGoesOnlyWhenAllIsWellForAWhile(t *testing.T) {
	vital := map[string]bool{"a": true, "b": true}
	look := func(a, b Action) []TargetStatus {
		return []TargetStatus{{Unit: "a", Action: a}, {Unit: "b", Action: b}}
	}
	ill, well, doubt := Action{Hold, BudgetUsed, ""}, Action{None, Healthy, ""}, Action{None, Doubt, ""}
	p := MarkPolicy{After: 10 * time.Second, Until: 10 * time.Second}
	now, m := noon, Mark{}
	for s, step := range []struct {
		seconds int
		a, b    Action
		on      bool
	}{
		{9, ill, well, false}, {1, well, well, false}, {10, ill, well, false}, {2, ill, well, true}, // a break counts from zero
		{30, ill, well, true}, {9, well, well, true}, {1, well, doubt, true}, {10, well, well, true}, {2, well, well, false},
	} {
		for range step.seconds {
			m = m.Next(p, vital, look(step.a, step.b), now)
			now = now.Add(time.Second)
		}
		if m.On != step.on {
			t.Errorf("step %d: on is %v, want %v (%+v)", s, m.On, step.on, m)
		}
	}
	if m.Reason != "" || !m.Since.IsZero() {
		t.Errorf("a mark that went leaves %+v", m)
	}
}
