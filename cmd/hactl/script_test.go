package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hactl/hactl/internal/pki"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hactl": main})
}

// The commands as users type them: testdata/script/*.txtar. Beside testscript's
// own commands there are
//
//	exits CODE PROG ARGS…   runs PROG and wants this exit code
//	makepki DIR             puts a master's keys, certificates and kubeconfigs below DIR
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   scriptExits,
			"makepki": scriptMakePKI,
		},
	})
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROG ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func scriptMakePKI(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: makepki DIR")
	}
	conf := filepath.Join(ts.MkAbs(args[0]), "etc", "kubernetes")
	s, err := pki.New(pki.Config{Dir: filepath.Join(conf, "pki"), Cluster: "prod"})
	ts.Check(err)
	_, err = s.EnsureCAs()
	ts.Check(err)
	m1 := pki.Master{Name: "m1", Address: "10.0.0.1"}
	_, err = s.EnsureLeaves(pki.Leaves{Self: m1, Masters: []pki.Master{m1}, ServiceIP: "10.96.0.1"})
	ts.Check(err)
	_, err = s.EnsureKubeconfigs(conf, "https://10.0.0.1:6443")
	ts.Check(err)
}
