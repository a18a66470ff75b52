package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
)

func open(t *testing.T, l layout.Layout, command string) (*journal, Record) {
	t.Helper()
	j, last, err := openJournal(l, command)
	if err != nil {
		t.Fatal(err)
	}
	return j, last
}

func TestJournalTellsWhereItWasCut(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	if _, err := ReadJournal(l); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no journal: %v", err)
	}
	j, _ := open(t, l, CommandBootstrap)
	for _, err := range []error{j.begin(StepConfig), j.done("fine"), j.mustRestart("a.service", "b.service"), j.begin(StepIntent)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	j.close() // cut

	j, last := open(t, l, CommandBootstrap)
	if last.Cut() != StepIntent || last.Steps[0].State != Done || last.Steps[0].Note != "fine" || last.Steps[1].State != Begun {
		t.Errorf("cut at %q: %+v", last.Cut(), last.Steps)
	}
	if !slices.Equal(j.Restart, []string{"a.service", "b.service"}) {
		t.Errorf("to be restarted: %v; what a run before left must not be forgotten", j.Restart)
	}
	for _, err := range []error{j.begin(StepConfig), j.restarted("a.service"), j.finish()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	j.close()
	_, last = open(t, l, CommandBootstrap)
	if last.Cut() != "" || !slices.Equal(last.Restart, []string{"b.service"}) {
		t.Errorf("finished: cut at %q, restart %v", last.Cut(), last.Restart)
	}
}

func TestOneCommandAtATime(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	j, _ := open(t, l, CommandBootstrap)
	if _, _, err := openJournal(l, CommandLeave); exitcode.Of(err) != exitcode.Refused {
		t.Errorf("a second command: %v, want a refusal", err)
	}
	j.close()
	j, _ = open(t, l, CommandLeave)
	j.close()
}

func TestWhatMayFollowWhatWasCut(t *testing.T) {
	for _, c := range []struct {
		cut, next string
		ok        bool
	}{
		{CommandBootstrap, CommandBootstrap, true},
		{CommandBootstrap, CommandLeave, true},
		{CommandBootstrap, CommandReset, true},
		{CommandLeave, CommandLeave, true},
		{CommandLeave, CommandReset, true},
		{CommandLeave, CommandBootstrap, false},
		{CommandReset, CommandReset, true},
		{CommandReset, CommandBootstrap, false},
		{CommandReset, CommandLeave, false},
	} {
		l := layout.Layout{Root: t.TempDir()}
		j, _ := open(t, l, c.cut)
		if err := j.begin("some step"); err != nil {
			t.Fatal(err)
		}
		j.close()
		j, _, err := openJournal(l, c.next)
		if (err == nil) != c.ok || (err != nil && exitcode.Of(err) != exitcode.Refused) {
			t.Errorf("%s after a cut %s: %v", c.next, c.cut, err)
		}
		if err == nil {
			j.close()
		}
	}
}

// A leave that was refused has touched nothing: the machine is a master as before.
func TestARefusedLeaveBindsNobody(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	j, _ := open(t, l, CommandLeave)
	if err := j.begin(StepCheck); err != nil {
		t.Fatal(err)
	}
	j.close()
	j, _ = open(t, l, CommandBootstrap)
	j.close()
}

func TestABadJournalIsTold(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	if err := os.MkdirAll(l.State(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"version": 9}`} {
		if err := os.WriteFile(JournalFile(l), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := openJournal(l, CommandBootstrap); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestWhatCannotBeWrittenHasAWayOut(t *testing.T) {
	for cause, hint := range map[error]string{
		syscall.ENOSPC: "make room", syscall.EDQUOT: "make room", syscall.EROFS: "writable", syscall.EACCES: "root", syscall.EIO: "",
	} {
		var coded *exitcode.Error
		err := unwritten("journal", "/var/lib/hactl", fmt.Errorf("write: %w", cause))
		if !errors.As(err, &coded) || coded.Code != exitcode.Failed || !errors.Is(err, cause) || !strings.Contains(coded.Hint, hint) || hint == "" && coded.Hint != "" {
			t.Errorf("%v: %+v, want a hint with %q", cause, err, hint)
		}
	}
	if err := unwritten("journal", "/var/lib/hactl", nil); err != nil {
		t.Errorf("nothing went wrong: %v", err)
	}
}
