package gossip

import (
	"strings"
	"testing"
	"time"
)

func TestMeta(t *testing.T) {
	full := Meta{
		Version: "v0.1.0 (0123456789ab) go1.26.8", APIServer: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535",
		Balancer: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535", Agent: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535", Ready: true, Leaving: true,
	}
	text, err := full.encode()
	if err != nil {
		t.Fatalf("the longest real one does not fit: %v", err)
	}
	if got, err := decodeMeta(text); err != nil || got != full {
		t.Errorf("read back %+v, %v", got, err)
	}
	if got, err := decodeMeta([]byte(`{"v":"v9","future":{"x":1}}`)); err != nil || got.Version != "v9" {
		t.Errorf("a newer version's: %+v, %v; want its known fields", got, err)
	}
	for text, want := range map[string]string{
		"":                       "unexpected end",
		`{"as":"10.0.0.1"}`:      "API server",
		`{"lb":"10.0.0.1:0"}`:    "balancer",
		`{"ag":"host:1"}`:        "agent",
		`{"v":"\u0007"}`:         "not printable",
		strings.Repeat(" ", 513): "at most 512",
	} {
		if _, err := decodeMeta([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add([]byte(`{"v":"v1","as":"10.0.0.1:6444","r":true}`))
	f.Add([]byte(`{"v":"\u0000"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := decodeMeta(text)
		if err != nil {
			return
		}
		out, err := m.encode()
		if err != nil {
			// JSON may say in few bytes what we write in more.
			if !strings.Contains(err.Error(), "are carried") {
				t.Fatalf("decoded %+v, which cannot be said: %v", m, err)
			}
			return
		}
		if back, err := decodeMeta(out); err != nil || back != m {
			t.Errorf("%+v became %+v, %v", m, back, err)
		}
	})
}

func TestReview(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	p := picture{peers: map[string]*peer{}}
	for _, name := range []string{"m1", "m2", "m3"} {
		e := p.get(name, now)
		e.State, e.answered = Alive, now
	}
	p.peers["m1"].Self = true
	limit := suspectAfter(3)
	if limit != 3250*time.Millisecond {
		t.Errorf("with three nodes a silence of %v makes one suspect, want three rounds of 1 s and a probe", limit)
	}
	if p.review(now.Add(limit)) {
		t.Error("suspect too early")
	}
	p.peers["m3"].answered = now.Add(time.Second)
	late := now.Add(limit + time.Millisecond)
	if !p.review(late) || p.peers["m2"].State != Suspect || p.peers["m3"].State != Alive || p.peers["m1"].State != Alive {
		t.Errorf("after the limit: %+v", p.list())
	}
	if p.review(late) {
		t.Error("a second look changes something")
	}
	p.peers["m2"].answered = late
	if !p.review(late) || p.peers["m2"].State != Alive || !p.peers["m2"].Since.Equal(late) {
		t.Errorf("after an answer: %+v", p.list())
	}
	p.peers["m2"].State = Dead
	if p.review(late.Add(time.Hour)) && p.peers["m2"].State != Dead {
		t.Errorf("a dead peer became %+v", p.peers["m2"])
	}
	p.peers["m2"].Conflict, p.peers["m2"].conflictAt = "10.0.0.9:7946", late
	if p.review(late.Add(time.Minute)); p.peers["m2"].Conflict == "" {
		t.Error("a fresh conflict is forgotten")
	}
	if p.review(late.Add(time.Minute + time.Second)); p.peers["m2"].Conflict != "" {
		t.Error("an old conflict is still shown")
	}
}
