package logging

import (
	"strings"
	"testing"
)

func TestStdMapsLevels(t *testing.T) {
	var b strings.Builder
	l, err := New(&b, Config{Level: "info"})
	if err != nil {
		t.Fatal(err)
	}
	std := Std(l)
	std.Printf("[WARN] memberlist: refuting")
	std.Printf("[DEBUG] memberlist: chatter")
	std.Printf("no tag")
	out := b.String()
	if !strings.Contains(out, `level=WARN msg="memberlist: refuting"`) || strings.Contains(out, "chatter") || !strings.Contains(out, `msg="no tag"`) {
		t.Errorf("got:\n%s", out)
	}
}

func TestNewRefusesTheUnknown(t *testing.T) {
	if _, err := New(nil, Config{Level: "loud"}); err == nil {
		t.Error("level: no error")
	}
	if _, err := New(nil, Config{Format: "xml"}); err == nil {
		t.Error("format: no error")
	}
}
