package lb

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAdminRequests(t *testing.T) {
	ca, s := three(t)
	r := newRig(t, ca, Config{Source: sourceOf(s[0])})
	r.until("a", "ready")
	h := r.adminHandler()
	other, _ := json.Marshal([]Backend{{Name: "b", Address: s[1].addr}})
	self, _ := json.Marshal([]Backend{{Address: r.addr}})
	for _, tc := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/status", "", 200, `"state": "ready"`},
		{"POST", "/v1/status", "", 405, ""},
		{"GET", "/v1/drain?backend=a", "", 405, ""},
		{"POST", "/v1/drain?backend=x", "", 404, "no such backend: x"},
		{"POST", "/v1/drain", "", 404, "no such backend"},
		{"POST", "/v1/suspect?backend=x", "", 404, "no such backend"},
		{"POST", "/v1/suspect?backend=a", "", 200, ""},
		{"POST", "/v1/reload", "", 200, ""},
		{"PUT", "/v1/backends", "nonsense", 400, "invalid character"},
		{"PUT", "/v1/backends", "[]", 400, "no backend in the list"},
		{"PUT", "/v1/backends", `[{"address":"x"}]`, 400, "want IP:port"},
		{"PUT", "/v1/backends", string(self), 400, "circle"},
		{"PUT", "/v1/backends", "[" + strings.Repeat(" ", maxListBytes) + "]", 400, "too large"},
		{"PUT", "/v1/backends", string(other), 200, ""},
		{"GET", "/v1/nothing", "", 404, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body)))
		if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.want) {
			t.Errorf("%s %s: %d %s, want %d %q", tc.method, tc.path, w.Code, w.Body, tc.code, tc.want)
		}
	}
	// The list from the admin API stays while the source says what it said.
	r.until("b", "ready")
	r.follow(t.Context(), true)
	if got := r.names(3); got["b"] != 3 {
		t.Errorf("answers: %v", got)
	}
}

func TestClientWithoutABalancer(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "lb.sock"))
	if _, err := c.Status(context.Background()); err == nil || !strings.Contains(err.Error(), "lb.sock") {
		t.Errorf("got %v", err)
	}
}

// An admin socket that a dead process left behind is no hindrance, and there is
// one at every moment while a successor takes over.
func TestAdminSocketIsReplaced(t *testing.T) {
	ca, s := three(t)
	path := filepath.Join(t.TempDir(), "lb.sock")
	writeFile(t, path, "not even a socket")
	first := newRig(t, ca, Config{Source: sourceOf(s[0]), AdminSocket: path, Name: "first"})
	name := func() string {
		st, err := NewClient(path).Status(context.Background())
		if err != nil {
			return err.Error()
		}
		return st.Name
	}
	eventually(t, "the first to answer", func() bool { return name() == "first" })
	state := filepath.Join(t.TempDir(), "backends.json")
	_, err := New(Config{Listeners: files(listener(t, "127.0.0.1:0")), Source: sourceOf(s[0]), Check: quick(ca), AdminSocket: path, StateFile: state})
	if !errors.Is(err, ErrAdminTaken) || name() != "first" {
		t.Errorf("one that is nobody's successor: %v; %s answers", err, name())
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it has touched the kept list: %v", err)
	}
	newRig(t, ca, Config{Source: sourceOf(s[0]), AdminSocket: path, Name: "second", Successor: true})
	eventually(t, "the second to answer", func() bool { return name() == "second" })
	first.stop()
	if got := name(); got != "second" {
		t.Errorf("after the first ended: %s", got)
	}
}

// One that accepts nothing more, but whose last connection is not over, is in nobody's way: a new
// one may listen at its address, with its admin socket, and keeps its list where the old one did.
func TestStartWhileTheOldOneFinishes(t *testing.T) {
	ca, s := three(t)
	dir := t.TempDir()
	path, state, list := filepath.Join(dir, "lb.sock"), filepath.Join(dir, "backends.json"), filepath.Join(dir, "list")
	writeFile(t, list, s[0].addr+",name=a\n")
	status := func() Status {
		st, _ := NewClient(path).Status(context.Background())
		return st
	}
	mute := badServer(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); _ = c.Close() })
	old := newRig(t, ca, Config{
		Source: Static([]Backend{{Name: "mute", Address: mute}}), Check: Check{Kind: CheckTCP}, DrainTimeout: time.Hour,
		AdminSocket: path, Name: "old", StateFile: state, SourceName: "old",
	})
	old.until("mute", "ready")
	c, err := net.Dial("tcp", old.addr) // busy: it has asked and got no answer
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "question"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection", func() bool { return old.backend("mute").BytesUp > 0 })
	if st := status(); st.Stopping || st.Name != "old" {
		t.Errorf("before it stops: %+v", st)
	}
	stopped := make(chan struct{})
	go func() { old.stop(); close(stopped) }()
	eventually(t, "it to say that it stops", func() bool { return status().Stopping })
	if st := status(); st.Ready || st.Why != "stopping" {
		t.Errorf("it is ready, %v, and says %q", st.Ready, st.Why)
	}

	cfg := Config{AdminSocket: path, Name: "new", StateFile: state, SourceName: "new", Source: File(list), Check: quick(ca), Listeners: files(listener(t, old.addr))}
	r := newRig(t, ca, cfg)
	r.until("a", "ready")
	if got := r.names(3); got["a"] != 3 {
		t.Errorf("answers: %v", got)
	}
	if err := old.SetBackends([]Backend{{Name: "b", Address: s[1].addr}}); err != nil {
		t.Fatal(err)
	}
	if kept, err := loadList(state, "new"); err != nil || kept.Backends[0].Name != "a" {
		t.Errorf("the kept list is %+v, %v", kept, err)
	}
	cfg.Listeners = files(listener(t, "127.0.0.1:0"))
	if _, err := New(cfg); !errors.Is(err, ErrAdminTaken) {
		t.Errorf("a third one: %v", err)
	}
	select {
	case <-stopped:
		t.Error("the old one has ended with a connection open")
	default:
	}
	_ = c.Close()
	<-stopped
	if got := status().Name; got != "new" {
		t.Errorf("%q answers", got)
	}
}

// Of two that begin at the same moment, and do not see each other yet, only one runs.
func TestOnlyOneOfTwoAtOnceRuns(t *testing.T) {
	ca, s := three(t)
	path := filepath.Join(t.TempDir(), "lb.sock")
	cfg := Config{Source: sourceOf(s[0]), Check: quick(ca), AdminSocket: path, Listeners: files(listener(t, "127.0.0.1:0"))}
	late, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listeners, cfg.Name = nil, "first"
	first := newRig(t, ca, cfg)
	first.until("a", "ready")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := late.Run(ctx); !errors.Is(err, ErrAdminTaken) {
		t.Errorf("the second one ran: %v", err)
	}
	if st, err := NewClient(path).Status(t.Context()); err != nil || st.Name != "first" {
		t.Errorf("%q answers, %v", st.Name, err)
	}
}

// One that does not answer may serve all the same.
func TestSilentOwnerOfTheAdminSocketIsRespected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lb.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = New(Config{
		Listeners: files(listener(t, "127.0.0.1:0")), Source: Static([]Backend{{Address: "127.0.0.1:1"}}), Check: Check{Kind: CheckNone}, AdminSocket: path,
	})
	if !errors.Is(err, ErrAdminTaken) {
		t.Errorf("got %v", err)
	}
}
