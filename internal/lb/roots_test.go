package lb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	if _, err := followed([]string{path}, 0, read); err == nil {
		t.Error("nothing to begin with: no error")
	}
	writeFile(t, path, "one")
	get, err := followed([]string{path}, 0, read)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ write, want string }{{"", "one"}, {"two", "two"}, {"bad", "two"}, {"gone", "two"}, {"three", "three"}} {
		switch step.write {
		case "":
		case "gone":
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		default:
			writeFile(t, path, step.write)
		}
		if got := get(); got != step.want {
			t.Errorf("after %q: %q, want %q", step.write, got, step.want)
		}
	}
}

func TestCredentialsOfTheChecks(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	for content, want := range map[string]string{"abc.def-g\n": "abc.def-g", "": "", "two words": "", "a\r\nX-Evil: b": "", "ü": ""} {
		writeFile(t, path, content)
		token, err := Token(path)
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
		"token": second(Token(filepath.Join(dir, "none"))), "CA": second(Roots(path)), "certificate": second(Certificate(path, path)),
	} {
		if err == nil || !strings.Contains(err.Error(), dir) && name != "certificate" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
