package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/layout"
)

// install writes a cluster file and its drop-ins below a root.
func install(t *testing.T, file string, dropIns map[string]string) layout.Layout {
	t.Helper()
	l := layout.Layout{Root: t.TempDir()}
	if err := os.MkdirAll(l.ConfigDropIns(), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if file != "" {
		put(l.ConfigFile(), file)
	}
	for name, text := range dropIns {
		put(filepath.Join(l.ConfigDropIns(), name), text)
	}
	return l
}

func TestDropInsMerge(t *testing.T) {
	l := install(t, example+`
apiServer:
  port: 7444
  extraArgs: {v: 2, profiling: true, audit-log-maxage: 30}
  oidc: {issuerURL: https://a.example.com, clientID: kubernetes}
etcd: {heartbeat: 50ms, backup: {keep: 7, to: ["dir:///a", "dir:///b"]}}
`, map[string]string{
		"10-first.yaml":  "etcd: {heartbeat: 70ms, backup: {to: [\"s3://bucket\"]}}\n",
		"20-second.yaml": "apiServer: {port: ~, extraArgs: {v: 4, profiling: ~, x: \"\"}, oidc: {groupsClaim: groups}}\netcd: {heartbeat: 80ms}\n",
		"30-empty.yaml":  "# nothing\n",
		"40-null.yaml":   "---\n",
		"notes.txt":      "not: [yaml",
	})
	c, err := Load(l)
	if err != nil {
		t.Fatal(err)
	}
	if c.Etcd.Heartbeat != 80*time.Millisecond || c.Etcd.Election != time.Second || c.Etcd.Backup.Keep != 7 {
		t.Errorf("a mapping does not merge: %+v", c.Etcd)
	}
	if !reflect.DeepEqual(c.Etcd.Backup.To, []string{"s3://bucket"}) {
		t.Errorf("a list does not replace: %v", c.Etcd.Backup.To)
	}
	if c.APIServer.Port != 6444 {
		t.Errorf("null does not mean the default: %d", c.APIServer.Port)
	}
	if want := map[string]string{"v": "4", "x": "", "audit-log-maxage": "30"}; !reflect.DeepEqual(c.APIServer.ExtraArgs, want) {
		t.Errorf("extraArgs %v, want %v", c.APIServer.ExtraArgs, want)
	}
	if o := c.APIServer.OIDC; o.IssuerURL != "https://a.example.com" || o.GroupsClaim != "groups" || o.UsernameClaim != "sub" || o.UsernamePrefix != "oidc:" {
		t.Errorf("oidc %+v", o)
	}
}

func TestDefaultsOfListElements(t *testing.T) {
	c, err := Parse("f", []byte(example+"singletons: [{name: kube-scheduler}, {name: x, command: [/x], ttl: 5s}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Singletons[0].TTL != 3*time.Second || c.Singletons[1].TTL != 5*time.Second {
		t.Errorf("%+v", c.Singletons)
	}
}

// Nothing that one Load decodes is shared with another.
func TestDefaultsAreNotShared(t *testing.T) {
	a, b := Default(), Default()
	a.Singletons[0].Name, a.APIServer.AuthorizationModes[0], a.Etcd.Backup.To[0] = "x", "y", "z"
	if !reflect.DeepEqual(b, Default()) {
		t.Error("changing one Default changed another")
	}
}

func TestFaultsTellFileAndLine(t *testing.T) {
	l := install(t, example+"etcd:\n  hartbeat: 1s\n  election: 60s\n", map[string]string{
		"a.yaml": "\n\nloadBalancer:\n  check:\n    rise: 0\n",
		"b.yaml": "frontDoor: {port: x}\nmasters:\n- name: m1\n  address: 10.0.0.1\n- name: M2\n",
	})
	_, err := Load(l)
	base := l.ConfigFile()
	drop := func(n string) string { return filepath.Join(l.ConfigDropIns(), n) }
	want := []string{
		base + ":9: etcd.hartbeat: unknown field; did you mean heartbeat?",
		drop("b.yaml") + `:1: frontDoor.port: "x": must be a whole number, not a text`,
		drop("b.yaml") + `:5: masters[1].name: "M2": must be a DNS label`,
		drop("b.yaml") + `:5: masters[1].address: missing`,
		base + `:10: etcd.election: "1m": etcd takes at most 50s`,
		drop("a.yaml") + `:5: loadBalancer.check.rise: "0": must be from 1`,
	}
	got := strings.Split(err.Error(), "\n")
	for i, w := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], w) {
			t.Errorf("line %d of\n%s\nwant %s", i, err, w)
		}
	}
	if n := len(FieldErrors(err)); n != len(got) || n < len(want) {
		t.Errorf("%d faults listed, %d lines", n, len(got))
	}
	if exitcode.Of(err) != exitcode.Usage {
		t.Errorf("exit code %d", exitcode.Of(err))
	}
}

func TestMissingAndUnreadableFiles(t *testing.T) {
	l := install(t, "", nil)
	_, err := Load(l)
	var coded *exitcode.Error
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &coded) || coded.Code != exitcode.Usage || !strings.Contains(coded.Hint, "print-defaults > "+l.ConfigFile()) {
		t.Errorf("%v, %+v", err, coded)
	}
	if err := os.MkdirAll(l.ConfigFile(), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(l); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a folder: %v", err)
	}
}

// Text that is no good cluster file, with what is told of it. Each case is
// appended to the example unless it begins with "!".
func TestStrictness(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"unknown field", "etcdd: {}\n", "f:8: etcdd: unknown field; did you mean etcd?"},
		{"unknown far field", "zzz: 1\n", "f:8: zzz: unknown field; known here: apiVersion, kind, name"},
		{"unknown in an element", "singletons: [{name: kube-scheduler, tll: 3s}]\n", "singletons[0].tll: unknown field; did you mean ttl?"},
		{"plural", "singleton: []\n", "did you mean singletons?"},
		{"case", "apiserver: {}\n", "did you mean apiServer?"},
		{"dashes", "load-balancer: {}\n", "did you mean loadBalancer?"},
		{"swapped letters", "wathcdog: {}\n", "did you mean watchdog?"},
		{"given twice", "name: other\n", "f:8: name: given twice; the first is in line 3"},
		{"given twice inside", "agent: {port: 1, port: 2}\n", "agent.port: given twice"},
		{"given twice in a map", "apiServer: {extraArgs: {v: 1, v: 2}}\n", "apiServer.extraArgs.v: given twice"},
		{"second document", "---\nname: x\n", "f:8: a second document begins here"},
		{"second empty document", "---\n", "a second document begins here"},
		{"second broken document", "---\n[", "not YAML"},
		{"not YAML", "a: [\n", "not YAML"},
		{"tabs", "etcd:\n\theartbeat: 1s\n", "f:9: not YAML"},
		{"list at the top", "!- a\n", "must be a mapping of fields, not a list"},
		{"text at the top", "!hello\n", "must be a mapping of fields, not a text"},
		{"empty", "!", "f: apiVersion: missing; write apiVersion: hactl/v1alpha1"},
		{"only a comment", "!# x\n", "kind: missing; write kind: Cluster"},
		{"no header", "!name: prod\n", "f: apiVersion: missing"},
		{"list for mapping", "etcd: []\n", "etcd: must be a mapping of fields, not a list"},
		{"mapping for list", "singletons: {}\n", "singletons: must be a list, not a mapping"},
		{"text for list", "singletons: kube-scheduler\n", `singletons: "kube-scheduler": must be a list, not a text`},
		{"mapping for text", "token: {file: {}}\n", "token.file: must be a text, not a mapping"},
		{"list for number", "agent: {port: [1]}\n", "agent.port: must be a whole number, not a list"},
		{"text for number", "agent: {port: \"9443\"}\n", `agent.port: "9443": must be a whole number, not a text`},
		{"fraction for number", "agent: {port: 1.5}\n", `agent.port: "1.5": must be a whole number`},
		{"huge number", "agent: {port: 99999999999999999999}\n", "agent.port"},
		{"duration without unit", "etcd: {heartbeat: 100}\n", `etcd.heartbeat: "100": not a duration: write a number with its unit`},
		{"duration with a wrong unit", "etcd: {heartbeat: 1d}\n", `"1d": not a duration`},
		{"duration as mapping", "etcd: {heartbeat: {}}\n", "etcd.heartbeat: must be a duration, as in 3s, not a mapping"},
		{"size with a wrong unit", "etcd: {quota: 8GB}\n", `etcd.quota: "8GB" is not a size`},
		{"negative size", "etcd: {quota: -1}\n", `etcd.quota: "-1" is not a size`},
		{"size as list", "etcd: {quota: []}\n", "etcd.quota: must be a size, as in 8Gi, not a list"},
		{"alias", "frontDoor: {host: &a x.example.com, sans: [*a]}\n", `frontDoor.sans[0]: "*a": aliases are not supported`},
		{"merge key", "agent: {<<: {port: 1}}\n", `agent: "<<": merge keys are not supported`},
		{"tag", "frontDoor: {host: !!binary aGk=}\n", "YAML tags are not supported"},
		{"key that is no word", "? [a]\n: 1\n", "a field's name must be a word"},
		{"nothing in a map", "apiServer: {extraArgs: []}\n", "apiServer.extraArgs: must be a mapping of names to values"},
		{"list in a map", "apiServer: {extraArgs: {v: [1]}}\n", "apiServer.extraArgs.v: must be a text, not a list"},
		{"too large", "#" + strings.Repeat("x", maxFile), "at most 1048576 are read"},
		{"not UTF-8", "x: \"\xff\"\n", "not YAML"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text, alone := strings.CutPrefix(c.text, "!")
			if !alone {
				text = example + text
			}
			got, err := Parse("f", []byte(text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v (%+v), want %q", err, got, c.want)
			}
			if len(FieldErrors(err)) != strings.Count(err.Error(), "\n")+1 {
				t.Errorf("not every line is a FieldError: %v", err)
			}
		})
	}
}

// A value that was not read is told once, not a second time as invalid.
func TestOneFaultForOneField(t *testing.T) {
	for _, text := range []string{
		example + "kubernetes: {version: [1]}\n",
		strings.Replace(example, "name: m2", "name: [m2]", 1),
		strings.Replace(example, "address: 10.245.1.12", "address: {ip: 10.245.1.12}", 1),
	} {
		_, err := Parse("f", []byte(text))
		if n := len(FieldErrors(err)); n != 1 {
			t.Errorf("%d faults: %v", n, err)
		}
	}
}

// The files that people have must load for ever: all examples, and those of
// every released format.
func TestExamplesLoad(t *testing.T) {
	seen := 0
	for _, pattern := range []string{"../../examples/*.yaml", "testdata/v0.1/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, f := range files {
			seen++
			c, err := LoadFiles(f)
			if err != nil {
				t.Errorf("%s:\n%v", f, err)
				continue
			}
			data, err := Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := Parse(f, data); err != nil || !reflect.DeepEqual(again, c) {
				t.Errorf("%s does not survive marshalling: %v", f, err)
			}
		}
	}
	t.Logf("%d files", seen)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add(DefaultsYAML())
	f.Add([]byte(example + "apiServer: {oidc: {issuerURL: 1}, extraArgs: {a: ~}}\nsingletons: [{}, ~]\n"))
	f.Add([]byte("a: &a [*a]\n<<: *a\n? [x]\n: !!int 1\n"))
	f.Add([]byte("etcd: {heartbeat: -1ns, quota: 8Gi, election: 9223372036854775807ns}\nmasters: [{address: \"::ffff:1.2.3.4%eth0\"}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data)
		if err != nil {
			if c != nil || len(FieldErrors(err)) == 0 {
				t.Fatalf("%v, %v", c, err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("Parse gave what Validate refuses: %v", err)
		}
		text, err := Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if twice, err := Marshal(again); err != nil || string(twice) != string(text) {
			t.Fatalf("%v\n%s\n%s", err, text, twice)
		}
	})
}
