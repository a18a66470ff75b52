package lb

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// A changed file counts; one that is bad or gone leaves what was good.
func TestFilesAreFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	read := func() (string, error) {
		data, err := os.ReadFile(path)
		if err == nil && string(data) == "bad" {
			err = errors.New("bad")
		}
		return string(data), err
	}
	log := &lines{}
	c := NewCheckFiles(slog.New(slog.NewTextHandler(log, nil)))
	if _, err := follow(c, []string{path}, 0, read); err == nil {
		t.Error("nothing to begin with: no error")
	}
	writeFile(t, path, "one")
	get, err := follow(c, []string{path}, 0, read)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		write, want  string
		fault        string
		errors, news int // lines in the log
	}{
		{"", "one", "", 0, 0},
		{"two", "two", "", 0, 1},
		{"bad", "two", "bad", 1, 1},
		{"", "two", "bad", 1, 1}, // it is told once
		{"bad", "two", "bad", 2, 1},
		{"gone", "two", "no such file", 3, 1},
		{"", "two", "no such file", 3, 1},
		{"three", "three", "", 3, 2},
		{"aside", "three", "no such file", 4, 2},
		{"back", "three", "", 4, 3}, // the very same
		{"", "three", "", 4, 3},
	} {
		var err error
		switch step.write {
		case "":
		case "gone":
			err = os.Remove(path)
		case "aside":
			err = os.Rename(path, path+".aside")
		case "back":
			err = os.Rename(path+".aside", path)
		default:
			writeFile(t, path, step.write)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := get(); got != step.want {
			t.Errorf("after %q: %q, want %q", step.write, got, step.want)
		}
		if err := c.Err(); (err == nil) != (step.fault == "") || err != nil && !strings.Contains(err.Error(), step.fault) {
			t.Errorf("after %q: fault %v, want %q", step.write, err, step.fault)
		}
		if e, n := len(log.with("level=ERROR", path)), len(log.with("level=INFO", path)); e != step.errors || n != step.news {
			t.Errorf("after %q: %d errors and %d news are logged, want %d and %d", step.write, e, n, step.errors, step.news)
		}
	}
}

// A CA that turned bad is seen before the certificates it vouched for have ended, though nothing
// needs it just then.
func TestBadFileOfTheChecksIsTold(t *testing.T) {
	ca, s := three(t)
	path := filepath.Join(t.TempDir(), "token")
	writeFile(t, path, "secret")
	log := &lines{}
	c := NewCheckFiles(slog.New(slog.NewTextHandler(log, nil)))
	if _, err := follow(c, []string{path}, 0, func() ([]byte, error) { return os.ReadFile(path) }); err != nil {
		t.Fatal(err)
	}
	check, reg := quick(ca), prometheus.NewRegistry()
	check.Files = c
	r := newRig(t, ca, Config{Source: sourceOf(s[0]), Check: check, Registerer: reg})
	r.until("a", "ready")
	gauge := func() float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "hactl_lb_check_files_error" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	if got := gauge(); got != 0 || r.Status().FilesErr != "" {
		t.Errorf("metric %v, status %q", got, r.Status().FilesErr)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log to tell it", func() bool { return len(log.with("level=ERROR", path)) == 1 }) // before anybody asks
	if got := gauge(); got != 1 || !strings.Contains(r.Status().FilesErr, path) {
		t.Errorf("metric %v, status %q", got, r.Status().FilesErr)
	}
	writeFile(t, path, "another")
	eventually(t, "it to be good again", func() bool { return r.Status().FilesErr == "" && gauge() == 0 })
}

func TestCredentialsOfTheChecks(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	c := NewCheckFiles(slog.New(slog.DiscardHandler))
	for content, want := range map[string]string{"abc.def-g\n": "abc.def-g", "": "", "two words": "", "a\r\nX-Evil: b": "", "ü": ""} {
		writeFile(t, path, content)
		token, err := c.Token(path)
		switch {
		case want == "":
			if err == nil || !strings.Contains(err.Error(), "one word in "+path) {
				t.Errorf("%q: %v", content, err)
			}
		case err != nil || token() != want:
			t.Errorf("%q: %v", content, err)
		}
	}
	writeFile(t, path, "not PEM")
	for name, err := range map[string]error{
		"token": second(c.Token(filepath.Join(dir, "none"))), "CA": second(c.Roots(path)), "certificate": second(c.Certificate(path, path)),
	} {
		if err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
