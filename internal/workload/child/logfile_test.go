package child

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOpenLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "u.log")
	write := func(s string, limit int64) {
		t.Helper()
		f, err := openLog(path, limit)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	want := func(path, content string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("%s holds %q, %v; want %q", filepath.Base(path), b, err, content)
		}
	}
	write("one", 8)
	write("two", 8)
	want(path, "onetwo")
	write("three", 8) // 6 bytes before: still below
	want(path, "onetwothree")
	write("four", 8)
	want(path, "four")
	want(path+".1", "onetwothree")
	write("fifth", 4)
	want(path+".1", "four")
	want(path, "fifth")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want 0640", info.Mode(), err)
	}
}

func TestOpenLogRefusals(t *testing.T) {
	dir := t.TempDir()
	if f, err := openLog(dir, 1); err == nil {
		_ = f.Close()
		t.Error("a folder was opened as a log")
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(filepath.Join(file, "u.log"), 1); err == nil {
		t.Error("a file was taken as a folder")
	}
}
