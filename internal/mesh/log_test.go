package mesh

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLibraryLog(t *testing.T) {
	out := &bytes.Buffer{}
	troubles := 0
	l := libraryLogger(slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelInfo})), func() { troubles++ })
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	l.Writer().(*quiet).now = func() time.Time { return now }
	count := func() int { return strings.Count(out.String(), "Decrypt packet failed") }
	for range 100 {
		l.Print("[ERR] memberlist: Decrypt packet failed: no key from=10.0.0.7:7946")
		l.Print("[ERR] memberlist: Decrypt packet failed: no key from=10.0.0.8:40123")
		l.Print("[INFO] memberlist: Suspect m2 has failed, no acks received")
		l.Print("[DEBUG] memberlist: Initiating push/pull sync with: m2")
	}
	if count() != 1 || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("got\n%s\nwant one line", out)
	}
	if troubles != 200 {
		t.Errorf("%v troubles counted, want 200", troubles)
	}
	now = now.Add(sayAgain)
	l.Print("[ERR] memberlist: Decrypt packet failed: no key from=10.0.0.7:7946")
	if count() != 2 {
		t.Errorf("after a minute it is not said again:\n%s", out)
	}
}
