package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
)

// The commands that keep a journal.
const (
	CommandBootstrap = "bootstrap" // join, too
	CommandLeave     = "leave"
	CommandReset     = "reset"
)

// The states of a step in the journal.
const (
	Begun = "begun"
	Done  = "done"
)

// journalVersion is the version of the file's format.
const journalVersion = 1

// Record is the journal's content: what the last command did, or was about to do.
type Record struct {
	Version int          `json:"version"`
	Command string       `json:"command"`
	Master  string       `json:"master,omitempty"`
	Began   time.Time    `json:"began"`
	Steps   []StepRecord `json:"steps"`
	// Finished is when the last step was done; zero: it was cut.
	Finished time.Time `json:"finished,omitzero"`
	// GivenUp is the step at which a leave was refused, and undone.
	GivenUp string `json:"givenUp,omitempty"`
	// Restart lists units whose files changed and that still run with the old ones.
	// It outlives the command.
	Restart []string `json:"restart,omitempty"`
}

// StepRecord is one step of it.
type StepRecord struct {
	Name    string    `json:"name"`
	State   string    `json:"state"` // Begun or Done
	Changed time.Time `json:"changed"`
	Note    string    `json:"note,omitempty"`
}

// Cut is the step at which the command was cut; empty when it was not.
func (r Record) Cut() string {
	if !r.Finished.IsZero() || len(r.Steps) == 0 {
		return ""
	}
	return r.Steps[len(r.Steps)-1].Name
}

// JournalFile is where a machine's journal lies.
func JournalFile(l layout.Layout) string { return filepath.Join(l.State(), "bootstrap.json") }

// ReadJournal returns the machine's journal; fs.ErrNotExist when it has none.
func ReadJournal(l layout.Layout) (Record, error) {
	path := JournalFile(l)
	text, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	r, err := parseJournal(text)
	if err != nil {
		return Record{}, exitcode.Errorf(exitcode.Failed, "%s: %w", path, err).WithHint("remove the file: every step finds out by itself whether it was done")
	}
	return r, nil
}

func parseJournal(text []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, err
	}
	if r.Version != journalVersion {
		return Record{}, fmt.Errorf("version %d: this program knows version %d", r.Version, journalVersion)
	}
	return r, nil
}

// journal is the open one of the command that runs. Only one command at a time
// has it.
type journal struct {
	path string
	lock *os.File
	told func(step, state string) // may be nil
	Record
}

// openJournal begins a command's journal. It returns the record of the command
// before. It refuses while another process has it, and a bootstrap on top of a
// leave or reset that was cut.
func openJournal(l layout.Layout, command string) (*journal, Record, error) {
	j := &journal{path: JournalFile(l), Record: Record{Version: journalVersion, Command: command, Began: time.Now().UTC()}}
	err := os.MkdirAll(l.State(), 0o700)
	if err == nil {
		j.lock, err = os.OpenFile(filepath.Join(l.State(), "bootstrap.lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return nil, Record{}, unwritten("journal", l.State(), err)
	}
	if err := syscall.Flock(int(j.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = j.lock.Close()
		return nil, Record{}, exitcode.Errorf(exitcode.Refused, "another hactl bootstrap, join, leave or reset runs on this machine").WithHint("wait for it, or end it: it can be run again")
	}
	last, err := ReadJournal(l)
	if err == nil {
		err = mayFollow(last, command)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.close()
		return nil, Record{}, err
	}
	j.Restart = last.Restart
	return j, last, nil
}

// mayFollow says which command may come after one that was cut.
func mayFollow(last Record, command string) error {
	cut := last.Cut()
	if cut == "" || command == last.Command || command == CommandReset {
		return nil
	}
	if last.Command == CommandBootstrap {
		return nil // leaving undoes what was half done
	}
	if last.Command == CommandLeave && cut == StepCheck {
		return nil // it was refused, or cut before it touched anything
	}
	return exitcode.Errorf(exitcode.Refused, "a hactl %s was cut on this machine at the step %s", last.Command, cut).
		WithHint("hactl %s ends it", last.Command)
}

func (j *journal) close() { _ = j.lock.Close() } // closing releases the lock

func (j *journal) begin(step string) error {
	j.Steps = append(j.Steps, StepRecord{Name: step, State: Begun, Changed: time.Now().UTC()})
	return j.writeStep()
}

// writeStep writes the journal and tells of its last step.
func (j *journal) writeStep() error {
	if err := j.write(); err != nil {
		return err
	}
	if s := j.Steps[len(j.Steps)-1]; j.told != nil {
		j.told(s.Name, s.State)
	}
	return nil
}

func (j *journal) done(note string) error {
	s := &j.Steps[len(j.Steps)-1]
	s.State, s.Note, s.Changed = Done, note, time.Now().UTC()
	return j.writeStep()
}

func (j *journal) finish() error {
	j.Finished = time.Now().UTC()
	return j.write()
}

// mustRestart records units before their files change.
func (j *journal) mustRestart(units ...string) error {
	for _, u := range units {
		if !slices.Contains(j.Restart, u) {
			j.Restart = append(j.Restart, u)
		}
	}
	return j.write()
}

func (j *journal) restarted(unit string) error {
	j.Restart = slices.DeleteFunc(j.Restart, func(u string) bool { return u == unit })
	return j.write()
}

func (j *journal) write() error {
	text, err := json.MarshalIndent(j.Record, "", "  ")
	if err != nil {
		return err
	}
	return unwritten("journal", filepath.Dir(j.path), atomicfile.Write(j.path, append(text, '\n'), 0o600))
}

// unwritten gives the usual reasons why nothing can be written in dir their way out.
func unwritten(what, dir string, err error) error {
	if err == nil {
		return nil
	}
	e := exitcode.Errorf(exitcode.Failed, "%s: %w", what, err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return e.WithHint("make room on the disk of %s (df -h %s); then the same command again", dir, dir)
	case errors.Is(err, syscall.EROFS):
		return e.WithHint("mount the disk of %s writable (dmesg | tail says why it is not); then the same command again", dir)
	case errors.Is(err, fs.ErrPermission):
		return e.WithHint("run it as root")
	}
	return e
}
