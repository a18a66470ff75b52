package lb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseBackend(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:6444":                          "10.0.0.1:6444",
		"10.0.0.1:06444":                         "10.0.0.1:6444",
		"[::ffff:10.0.0.1]:1":                    "10.0.0.1:1",
		"[2001:DB8::1]:6444,weight=1":            "[2001:db8::1]:6444",
		"API.example.com:6443":                   "api.example.com:6443,name=api.example.com:6443",
		"unix:/run/x.sock,name=x":                "unix:/run/x.sock,name=x",
		"10.0.0.1:1,zone=a, name=m1 ,weight=256": "10.0.0.1:1,name=m1,weight=256,zone=a",
		"":                                       "! address is missing",
		"10.0.0.1":                               "! want IP:port",
		"10.0.0.1:0":                             "! port",
		"10.0.0.1:65536":                         "! port",
		"10.0.0.300:1":                           "! neither an IP address nor a name",
		"0.0.0.0:1":                              "! no server can be reached",
		"[ff02::1]:1":                            "! no server can be reached",
		"-x.example:1":                           "! neither an IP address nor a name",
		"unix:relative":                          "! absolute",
		"unix:/" + strings.Repeat("x", 200):      "! 100 bytes",
		"10.0.0.1:1,weight=0x":                   "! whole number",
		"10.0.0.1:1,weight=257":                  "! want 1 to 256",
		"10.0.0.1:1,weight=-1":                   "! want 1 to 256",
		"10.0.0.1:1,weight":                      "! want name=",
		"10.0.0.1:1,color=red":                   "! unknown field",
		"10.0.0.1:1,zone=a,zone=b":               "! given twice",
		"10.0.0.1:1,name=" + strings.Repeat("n", 300): "! printable",
		"10.0.0.1:1,name=a\x00b":                      "! printable",
	} {
		b, err := ParseBackend(in)
		if msg, bad := strings.CutPrefix(want, "! "); bad {
			if err == nil || !strings.Contains(err.Error(), msg) {
				t.Errorf("%q: got %v, want %q", in, err, msg)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		got := b.String()
		if b.isName() {
			got += ",name=" + b.Name
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestParseListTellsEveryLine(t *testing.T) {
	_, err := ParseList([]byte("10.0.0.1:1,name=a # fine\n\n# a remark\n10.0.0.1:1,name=b\n10.0.0.2:1,name=a\nnonsense\n10.0.0.9:1,weight=x\n"))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"line 4: address 10.0.0.1:1 is on line 1", "line 5: name a is on line 1", "line 6:", "line 7:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	for in, want := range map[string]string{
		"# nothing\n":                       "no backend",
		strings.Repeat("x", maxListBytes+1): "want at most",
	} {
		if _, err := ParseList([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	var many strings.Builder
	for i := range maxBackends + 1 {
		fmt.Fprintf(&many, "10.%d.%d.1:1\n", i/250, i%250)
	}
	if _, err := ParseList([]byte(many.String())); err == nil || !strings.Contains(err.Error(), "want at most 1024") {
		t.Error(err)
	}
}

// What is read can be written and read again; names and addresses are unique.
func FuzzParseList(f *testing.F) {
	f.Add([]byte("10.0.0.1:6444,name=m1,weight=2,zone=a\n[::1]:1 # x\nunix:/x\nhost:1\n"))
	f.Add([]byte("a\r\n,\n=,\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseList(data)
		if err != nil {
			return
		}
		var text strings.Builder
		seen := map[string]bool{}
		for _, b := range list {
			if seen["n"+b.Name] || seen["a"+b.Address] {
				t.Fatalf("%s is there twice", b)
			}
			seen["n"+b.Name], seen["a"+b.Address] = true, true
			fmt.Fprintln(&text, b)
		}
		if strings.Contains(text.String(), "#") {
			return // a # in a name begins a remark
		}
		again, err := ParseList([]byte(text.String()))
		if err != nil || !slices.Equal(list, again) {
			t.Fatalf("%q became %v, %v", text.String(), again, err)
		}
	})
}

func FuzzDecodeList(f *testing.F) {
	f.Add([]byte(`{"version":1,"saved":"2026-11-22T00:00:00Z","backends":[{"name":"a","address":"10.0.0.1:1"}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeList(data)
		if err == nil && (len(s.Backends) == 0 || len(s.Backends) > maxBackends) {
			t.Fatalf("%d backends", len(s.Backends))
		}
	})
}

func TestSavedList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "backends.json")
	list := []Backend{{Name: "a", Address: "10.0.0.1:1", Weight: 1}}
	if err := saveList(path, savedList{Saved: time.Unix(0, 0), Source: "one", Backends: list}); err != nil {
		t.Fatal(err)
	}
	if s, err := loadList(path, "one"); err != nil || !slices.Equal(s.Backends, list) {
		t.Errorf("got %+v %v", s, err)
	}
	if s, err := loadList(path, "another"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another source's list is used: %+v %v", s, err)
	}
	writeFile(t, path, `{"version":1,"backends":[{"address":"10.0.0.1:1"}]}`) // of an older version
	if s, err := loadList(path, "one"); err != nil || !slices.Equal(s.Backends, []Backend{{Name: "10.0.0.1:1", Address: "10.0.0.1:1", Weight: 1}}) {
		t.Errorf("got %+v %v", s, err)
	}
	for content, want := range map[string]string{
		"{":             "unexpected end",
		`{"version":3}`: "version 3",
		`{"version":1}`: "no backend",
		`{"version":1,"backends":[{"address":"x"}]}`: "address",
	} {
		writeFile(t, path, content)
		if _, err := loadList(path, "one"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", content, err, want)
		}
	}
	if _, err := loadList(filepath.Join(t.TempDir(), "none"), ""); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestWatchedLoadsOnlyAfterAChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	loads := 0
	src := Watched([]string{path}, func() ([]Backend, error) { loads++; return nil, nil })
	for _, step := range []struct {
		content string
		anew    bool
		want    int
	}{{"", false, 1}, {"", false, 1}, {"a", false, 2}, {"", false, 2}, {"b", false, 3}, {"", true, 4}, {"", false, 4}} {
		if step.content != "" {
			writeFile(t, path, step.content)
		}
		_, _ = src(step.anew)
		if loads != step.want {
			t.Fatalf("%d loads, want %d", loads, step.want)
		}
	}
}

// Drop-ins are often edited in place.
func TestWatchedLooksIntoFolders(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "10-masters.yaml")
	loads := 0
	src := Watched([]string{dir}, func() ([]Backend, error) { loads++; return nil, nil })
	for i, content := range []string{"", "a", "ab", "", "abc"} {
		want := loads + 1
		if content == "" && i > 0 {
			want = loads // nothing has changed
		} else if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = src(false)
		if loads != want {
			t.Errorf("step %d: %d loads, want %d", i, loads, want)
		}
	}
}

func TestParseRate(t *testing.T) {
	for in, want := range map[string]float64{"1%/s": 0.01, "0.5%/s": 0.005, "100%/s": 1, "0": -1, "off": -1} {
		if got, err := ParseRate(in); err != nil || got != want {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"", "1", "1%", "-1%/s", "0%/s", "101%/s", "NaN%/s", "x%/s"} {
		if _, err := ParseRate(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}
