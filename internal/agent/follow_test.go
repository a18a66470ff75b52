package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/layout"
)

func TestOnlyAGoodAndOtherConfigurationIsAChange(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	write := func(text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(l.ConfigFile()), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(l.ConfigFile(), []byte("apiVersion: hactl/v1alpha1\nkind: Cluster\nname: prod\nmasters:\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const m1, m2 = "  - {name: m1, address: 10.0.0.1}\n", "  - {name: m2, address: 10.0.0.2}\n"
	write(m1)
	c, err := config.Load(l)
	if err != nil {
		t.Fatal(err)
	}
	text, err := config.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, _ := c.MasterByName("m1")
	cfg := Config{Cluster: c, Layout: l}
	for _, s := range []struct {
		what, masters string
		want          bool
	}{
		{"the same", m1, false},
		{"the same, with a comment", "# here\n" + m1, false},
		{"half written", "  - {name: m1, add", false},
		{"without this master", m2, false},
		{"with another address", "  - {name: m1, address: 10.0.0.9}\n", false},
		{"with one more", m1 + m2, true},
	} {
		write(s.masters)
		if got := changed(text, cfg, self); got != s.want {
			t.Errorf("%s: changed = %v, want %v", s.what, got, s.want)
		}
	}
}
