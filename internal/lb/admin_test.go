package lb

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
