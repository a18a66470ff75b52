package systemd

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestGroupOf(t *testing.T) {
	for slice, want := range map[string]string{
		"system.slice":           "/system.slice/u.service",
		"system-podmaster.slice": "/system.slice/system-podmaster.slice/u.service",
		"a-b-c.slice":            "/a.slice/a-b.slice/a-b-c.slice/u.service",
		"-.slice":                "/u.service",
		"":                       "/u.service",
	} {
		if got := groupOf(slice, "u.service"); got != want {
			t.Errorf("%q: %q, want %q", slice, got, want)
		}
	}
}

func TestDropInBinds(t *testing.T) {
	target := Target{Unit: "u", File: "/run/podmaster/u.service"}
	for name, c := range map[string]struct {
		own, mode    string
		want, refuse []string
	}{
		"owned": {"podmaster@u.service", "mixed", []string{
			"BindsTo=podmaster@u.service\n", "AssertPathExists=/run/podmaster/u.service\n", "EnvironmentFile=/run/podmaster/u.service\n",
			"Restart=no\n", "SendSIGKILL=yes\n", "KillMode=mixed\n", "TimeoutStopSec=2500ms\n", "StartLimitIntervalSec=0\n",
		}, []string{"After="}},
		// What a kill mode leaves alive would outlive the term.
		"kills too little": {"o.service", "process", []string{"KillMode=control-group\n"}, []string{"process\n"}},
		"kills nothing":    {"o.service", "none", []string{"KillMode=control-group\n"}, []string{"none\n"}},
		"no owner":         {"", "control-group", []string{"AssertPathExists="}, []string{"BindsTo"}},
	} {
		got := dropIn(target, c.own, c.mode, 2500*time.Millisecond)
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in\n%s", name, w, got)
			}
		}
		for _, r := range c.refuse {
			if strings.Contains(got, r) {
				t.Errorf("%s: %q in\n%s", name, r, got)
			}
		}
	}
}

func TestBoundState(t *testing.T) {
	for name, c := range map[string]struct {
		props     map[string]any
		ended, ok bool
		code      int
	}{
		"runs":              {map[string]any{"ActiveState": "active", "Result": "success"}, false, false, -1},
		"is being stopped":  {map[string]any{"ActiveState": "deactivating", "Result": "success"}, false, false, -1},
		"ended well":        {map[string]any{"ActiveState": "inactive", "Result": "success", "ExecMainCode": int32(1), "ExecMainStatus": int32(0)}, true, true, 0},
		"failed":            {map[string]any{"ActiveState": "failed", "Result": "exit-code", "ExecMainCode": int32(1), "ExecMainStatus": int32(7)}, true, false, 7},
		"killed":            {map[string]any{"ActiveState": "failed", "Result": "signal", "ExecMainCode": int32(2), "ExecMainStatus": int32(9)}, true, false, -1},
		"failed, with 0":    {map[string]any{"ActiveState": "failed", "Result": "timeout", "ExecMainCode": int32(1), "ExecMainStatus": int32(0)}, true, false, 0},
		"stopped from fail": {map[string]any{"ActiveState": "inactive", "Result": "signal"}, true, false, -1},
	} {
		got := boundState("u", c.props)
		if got.Ended != c.ended || got.OK != c.ok || got.Code != c.code {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestKillGroupOfNobody(t *testing.T) {
	if err := killGroup("/hactl-no-such-group/u.service"); err != nil {
		t.Error(err)
	}
}

func TestPermitIsReadAsItIsMeant(t *testing.T) {
	target := Target{Unit: "u", File: filepath.Join(t.TempDir(), "run", "u.service")}
	if err := target.Permit([]string{"A=1", "B=a \"b\" $c `d` \\ =", "PODMASTER_TOKEN=7"}); err != nil {
		t.Fatal(err)
	}
	// The shell reads such a file as systemd does.
	out, err := exec.Command("sh", "-c", `. "$0"; echo "$A|$B|$PODMASTER_TOKEN"`, target.File).Output()
	if want := "1|a \"b\" $c `d` \\ =|7\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	if fi, err := os.Stat(target.File); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := target.Permit([]string{"A=1\nB=2"}); err == nil {
		t.Error("a line break is accepted")
	}
	for range 2 {
		if err := target.Forbid(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(target.File); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the permit is there: %v", err)
	}
}
