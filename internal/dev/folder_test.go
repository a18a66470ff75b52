package dev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
)

func testFolder(t *testing.T) *Folder {
	t.Helper()
	f := &Folder{Dir: t.TempDir(), Info: Info{Format: format, Masters: 3, Network: "127.0.1.0", FrontDoor: "127.0.0.1:6443"}}
	if err := f.save(); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOpen(t *testing.T) {
	f := testFolder(t)
	got, err := Open(f.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Info != f.Info {
		t.Errorf("got %+v, want %+v", got.Info, f.Info)
	}
	if a := got.Address(2); a != "127.0.1.3" {
		t.Errorf("third master at %s", a)
	}
	if hosts := strings.Join(got.Hosts(), " "); hosts != "m1 m2 m3 front-door" {
		t.Errorf("hosts %s", hosts)
	}
}

func TestOpenRefuses(t *testing.T) {
	cases := []struct {
		name, content, wantErr string
		code                   int
	}{
		{"nothing", "", "no dev cluster in", exitcode.Failed},
		{"damaged", "{", "is damaged", exitcode.Failed},
		{"another version", `{"format": 99}`, "another version", exitcode.Refused},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.content != "" {
				if err := os.WriteFile(filepath.Join(dir, "dev.json"), []byte(c.content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Open(dir)
			var e *exitcode.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.wantErr) || e.Code != c.code || e.Hint == "" {
				t.Errorf("err = %v, want %q, code %d and a hint", err, c.wantErr, c.code)
			}
		})
	}
}

func TestSecondLockNamesTheFirst(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v, want ErrLocked", err)
	}
	unlock()
	again, err := lock(dir)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again()
}

func TestALockFileLeftBehindIsNotALock(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("999999"), 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestValidate(t *testing.T) {
	good := Info{Masters: 3, Network: "127.0.1.0", FrontDoor: "127.0.0.1:6443"}
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name string
		edit func(*Info)
		want string
	}{
		{"even", func(i *Info) { i.Masters = 2 }, "--masters 2"},
		{"seven", func(i *Info) { i.Masters = 7 }, "--masters 7"},
		{"network not loopback", func(i *Info) { i.Network = "10.0.0.0" }, "--network"},
		{"network not a /24", func(i *Info) { i.Network = "127.0.1.4" }, "--network"},
		{"front door without port", func(i *Info) { i.FrontDoor = "127.0.0.1" }, "--front-door"},
		{"front door outside", func(i *Info) { i.FrontDoor = "0.0.0.0:6443" }, "--front-door"},
		{"front door port", func(i *Info) { i.FrontDoor = "127.0.0.1:70000" }, "--front-door"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			i := good
			c.edit(&i)
			err := i.validate()
			if err == nil || !strings.Contains(err.Error(), c.want) || exitcode.Of(err) != exitcode.Usage {
				t.Errorf("err = %v, want one with %q and code 2", err, c.want)
			}
		})
	}
	both := Info{Masters: 4, Network: "x", FrontDoor: "y"}
	if err := both.validate(); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("all faults at once, got: %v", err)
	}
}
