package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

func lab(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, said bytes.Buffer
	err = newApp(&env{stdin: strings.NewReader(""), stdout: &out, stderr: &said}).RunContext(t.Context(), append([]string{"lab"}, args...))
	return out.String(), err
}

func TestWrongUse(t *testing.T) {
	t.Setenv("HACTL_LAB_DIR", t.TempDir())
	for args, code := range map[string]int{
		"frob":        exitcode.Usage,
		"exec":        exitcode.Usage,
		"exec m1":     exitcode.Usage,
		"exec m1 --":  exitcode.Usage,
		"up --bind x": exitcode.Usage,
		// No lab is up.
		"exec m1 -- true": exitcode.Unreachable,
		"status":          exitcode.Unreachable,
		"cut m1 m2":       exitcode.Unreachable,
		"power-off m1":    exitcode.Unreachable,
		"down":            exitcode.OK,
	} {
		if _, err := lab(t, strings.Fields(args)...); exitcode.Of(err) != code {
			t.Errorf("lab %s: got %d (%v), want %d", args, exitcode.Of(err), err, code)
		}
	}
}

func TestHelpHidesTheInnerCommands(t *testing.T) {
	out, err := lab(t, "--help")
	if err != nil || !strings.Contains(out, "power-off") || strings.Contains(out, "keeper") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestParseShare(t *testing.T) {
	for text, want := range map[string]float64{"0.1": 0.1, "10%": 0.1, "0": 0, "100%": 1, "1": 1, "-1": -1, "2": -1, "101%": -1, "x": -1, "%": -1, "NaN": -1, "": -1} {
		got, err := parseShare(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "512k": 512_000, "10M": 10_000_000, "1G": 1_000_000_000, "0": 0, "-1k": 0, "1.5M": 0, "kk": 0, "10Mk": 0, "": 0} {
		got, err := parseRate(text)
		if err != nil {
			got = 0
		}
		if got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("10%")
	f.Add("1G")
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := parseShare(text); err == nil && !(v >= 0 && v <= 1) {
			t.Errorf("share %q: %v", text, v)
		}
		if v, err := parseRate(text); err == nil && (v <= 0 || v > int64(time.Hour)) {
			t.Errorf("rate %q: %v", text, v)
		}
	})
}
