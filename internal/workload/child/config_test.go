package child

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/workload"
)

func TestNewRefuses(t *testing.T) {
	unit := func(change func(*workload.Unit)) func(*Config) {
		return func(c *Config) { change(&c.Units[1]) }
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no socket":           {func(c *Config) { c.Socket = "" }, `socket: "" is not an absolute path`},
		"relative notify":     {func(c *Config) { c.NotifySocket = "run/n" }, `notifySocket: "run/n" is not an absolute path`},
		"long socket":         {func(c *Config) { c.Socket = "/" + strings.Repeat("x", 107) }, "108 characters, a socket's path may have 107"},
		"one for both":        {func(c *Config) { c.NotifySocket = c.Socket }, "is also the control socket"},
		"no name":             {unit(func(u *workload.Unit) { u.Name = "" }), `unit "": not a unit's name`},
		"name with a slash":   {unit(func(u *workload.Unit) { u.Name = "a/b" }), `unit "a/b": not a unit's name`},
		"name with dots only": {unit(func(u *workload.Unit) { u.Name = ".." }), `unit "..": not a unit's name`},
		"same name":           {unit(func(u *workload.Unit) { u.Name = "a" }), `unit "a": given twice`},
		"no program":          {unit(func(u *workload.Unit) { u.Exec = nil }), `unit "b": exec`},
		"relative program":    {unit(func(u *workload.Unit) { u.Exec = []string{"sleep", "1"} }), `unit "b": exec: ["sleep" "1"] does not begin with an absolute path`},
		"bad environment":     {unit(func(u *workload.Unit) { u.Env = []string{"A=1", "B"} }), `unit "b": env: "B" is not KEY=value`},
		"empty key":           {unit(func(u *workload.Unit) { u.Env = []string{"=1"} }), `env: "=1"`},
		"relative log":        {unit(func(u *workload.Unit) { u.LogFile = "b.log" }), `unit "b": logFile`},
		"negative watchdog":   {unit(func(u *workload.Unit) { u.WatchdogSec = -1 }), `unit "b": watchdogSec: -1ns is negative`},
		"negative stop":       {unit(func(u *workload.Unit) { u.StopTimeout = -time.Second }), "stopTimeout: -1s is negative"},
		"unknown after":       {unit(func(u *workload.Unit) { u.After = []string{"z"} }), `unit "b": after: no unit "z"`},
		"after itself":        {unit(func(u *workload.Unit) { u.After = []string{"b"} }), "b → b"},
		"cycle":               {unit(func(u *workload.Unit) { u.After = []string{"c"} }), "a → b → c → a"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Socket: "/run/s", NotifySocket: "/run/n", Units: []workload.Unit{
				{Name: "a", Exec: []string{"/bin/true"}, After: []string{"b"}},
				{Name: "b", Exec: []string{"/bin/true"}},
				{Name: "c", Exec: []string{"/bin/true"}, After: []string{"a"}},
			}}
			if _, err := New(cfg); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			c.change(&cfg)
			_, err := New(cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New = %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestNewTellsAllFaultsAtOnce(t *testing.T) {
	_, err := New(Config{Units: []workload.Unit{{Name: "?"}, {Name: "b", Exec: []string{"x"}}}})
	for _, want := range []string{"socket", "notifySocket", `unit "?": not a unit's name`, `unit "?": exec`, `unit "b": exec`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want %q in it", err, want)
		}
	}
}

func TestNewSetsDefaultsInItsOwnCopy(t *testing.T) {
	units := []workload.Unit{{Name: "a", Exec: []string{"/bin/true"}}}
	s, err := New(Config{Socket: "/run/s", NotifySocket: "/run/n", Units: units})
	if err != nil {
		t.Fatal(err)
	}
	got := s.cfg.Units[0]
	if got.AfterTimeout != 20*time.Second || got.StartTimeout != 90*time.Second || got.StopTimeout != 90*time.Second || s.cfg.MaxLog != 64<<20 {
		t.Errorf("defaults: %+v, MaxLog %d", got, s.cfg.MaxLog)
	}
	if units[0].StopTimeout != 0 {
		t.Error("New changed its caller's units")
	}
}

func TestEnviron(t *testing.T) {
	getenv := func(k string) string { return map[string]string{"PATH": "/p", "SECRET": "x"}[k] }
	own := []string{"NOTIFY_SOCKET=/n"}
	for _, c := range []struct {
		unit workload.Unit
		want []string
	}{
		{workload.Unit{Env: []string{"A=1"}}, []string{"PATH=/p", "A=1"}},
		{workload.Unit{Notify: true}, []string{"PATH=/p", "NOTIFY_SOCKET=/n"}},
		{workload.Unit{WatchdogSec: 1500 * time.Millisecond}, []string{"PATH=/p", "NOTIFY_SOCKET=/n", "WATCHDOG_USEC=1500000"}},
	} {
		if got := environ(c.unit, own, getenv); !slices.Equal(got, c.want) {
			t.Errorf("environ(%+v) = %q, want %q", c.unit, got, c.want)
		}
	}
	if got := environ(workload.Unit{}, nil, func(string) string { return "" }); !strings.HasPrefix(got[0], "PATH=/usr/") {
		t.Errorf("without PATH: %q", got)
	}
}
