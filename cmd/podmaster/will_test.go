package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/lease"
	"github.com/hactl/hactl/internal/lease/etcdlock"
	"github.com/hactl/hactl/internal/workload/systemd"
)

// A will releases the very term that it was made for, and no other.
func TestWillReleasesItsOwnTermOnly(t *testing.T) {
	cluster := etcdtest.Start(t, 1, etcdtest.Options{})
	client, err := etcdlock.Dial(etcdlock.Config{Endpoints: cluster.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	lock, err := client.Lock("will")
	if err != nil {
		t.Fatal(err)
	}
	seen, err := lock.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	held, err := lock.Take(t.Context(), seen, lease.Claim{ID: "a", Holder: "m1", TTL: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	release := func(token int64) string {
		t.Helper()
		raw, err := json.Marshal(will{Endpoints: cluster.Endpoints(), Key: "will", Token: token, Claim: lease.Claim{Holder: "m1", TTL: 3 * time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		if err := releaseWill(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		rec, err := lock.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if rec.Ended {
			return rec.Reason
		}
		return ""
	}
	if how := release(held.Token() - 1); how != "" {
		t.Errorf("another term's will ended this one: %q", how)
	}
	if how := release(held.Token()); how != "podmaster died" {
		t.Errorf("the term ended by %q", how)
	}
}

// What must end before a release is named by the will itself: the drop-in that binds
// the unit to ours can be deleted by anybody.
func TestWillNamesItsUnit(t *testing.T) {
	o := &options{key: "k", whoami: "m1"}
	target := systemd.Target{Unit: "u", Group: "/system.slice/u.service", File: "/run/podmaster/u.service"}
	var w will
	if err := json.Unmarshal(o.will(7, &target), &w); err != nil {
		t.Fatal(err)
	}
	if !w.Unit || w.Target == nil || *w.Target != target || w.Token != 7 {
		t.Errorf("%+v", w)
	}
	if err := (will{Unit: true}).end(t.Context()); err == nil {
		t.Error("a unit that is not named counts as ended")
	}
	w = will{}
	if err := json.Unmarshal(o.will(7, nil), &w); err != nil || w.Unit || w.Target != nil || w.end(t.Context()) != nil {
		t.Errorf("a command: %+v, %v", w, err)
	}
}

// Outside of systemd no will is left; inside it lies where only root reads it.
func TestWillFile(t *testing.T) {
	t.Setenv("INVOCATION_ID", "")
	if file := willFile(); file != "" {
		t.Errorf("without systemd: %q", file)
	}
	if group := ownGroup(); group != "" && !strings.HasSuffix(group, ".service") {
		t.Errorf("own group %q", group)
	}
	if ownUnit() == "" {
		return // the tests run in no unit: what follows is seen in the lab only
	}
	t.Setenv("INVOCATION_ID", "1")
	t.Setenv("RUNTIME_DIRECTORY", t.TempDir()+":/elsewhere")
	dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	if file := willFile(); filepath.Dir(file) != dir {
		t.Errorf("%q, not in %q", file, dir)
	}
}
