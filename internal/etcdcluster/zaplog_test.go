package etcdcluster

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestOneLog(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	cfg := Config{
		Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})).With("unit", "hactl-etcd"),
		Notify: func(string) {},
	}
	var ended string
	lg := cfg.zapLogger(func(why string) { ended = why }).With(zap.String("member", "m1"))
	lg.Debug("hidden")
	lg.Info("an election", zap.Uint64("term", 4), zap.Duration("took", time.Second), zap.Strings("urls", []string{"a", "b"}))
	lg.Named("raft").Warn("slow", zap.Error(errors.New("disk")))
	want := []string{
		`level=INFO msg="an election" unit=hactl-etcd member=m1 term=4 took=1s urls="[a b]"`,
		`level=WARN msg=slow unit=hactl-etcd member=m1 err=disk logger=raft`,
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("got\n%s\nwant %d lines", &out, len(want))
	}
	for i := range want {
		if !strings.HasSuffix(lines[i], want[i]) {
			t.Errorf("line %d: got %s\nwant …%s", i, lines[i], want[i])
		}
	}

	// The reason of the end is kept even when such lines are not logged.
	level.Set(slog.LevelError)
	out.Reset()
	lg.Warn("server error", zap.Error(errors.New("the member has been permanently removed from the cluster")))
	if out.Len() != 0 || !strings.Contains(ended, "permanently removed") {
		t.Errorf("logged %q, ended %q", &out, ended)
	}
	lg.Error("bad")
	if !strings.Contains(out.String(), "level=ERROR msg=bad") {
		t.Errorf("got %q", &out)
	}
}
