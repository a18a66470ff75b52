package wire

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/test/hosts/internal/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAddressesAreInTheNetworkAndUnique(t *testing.T) {
	seen, macs := map[netip.Addr]bool{}, map[string]bool{}
	for i := range MaxHosts + 1 {
		a := Address(i)
		if !Network().Contains(a) || seen[a] || macs[MAC(a).String()] || a.As4()[3] == 255 {
			t.Fatalf("host %d: %v, %v", i, a, MAC(a))
		}
		seen[a], macs[MAC(a).String()] = true, true
	}
	if Address(0).String() != "10.245.1.1" || Address(1).String() != "10.245.1.11" || Address(3).String() != "10.245.1.13" {
		t.Errorf("plan changed: %v %v %v", Address(0), Address(1), Address(3))
	}
}

// serve answers one call.
func serve(t *testing.T, answer func(net.Conn)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		answer(conn)
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return socket
}

func TestCall(t *testing.T) {
	got := make(chan Request, 1)
	socket := serve(t, func(conn net.Conn) {
		req, err := Read(conn)
		if err != nil {
			t.Error(err)
		}
		got <- req
		_ = json.NewEncoder(conn).Encode(Answer{Status: &Status{Hosts: []HostStatus{{State: On, Boots: 2}}}})
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	status, err := Call(ctx, socket, Request{Op: OpSlow, Ways: []link.Way{{From: "a", To: "b"}}, Shape: &link.Shape{Loss: 0.5}})
	if err != nil || len(status.Hosts) != 1 || status.Hosts[0].Boots != 2 {
		t.Fatalf("%+v, %v", status, err)
	}
	req := <-got
	if req.Op != OpSlow || req.Ways[0].To != "b" || req.Shape.Loss != 0.5 || req.Within <= 0 || req.Within > time.Minute {
		t.Fatalf("%+v", req)
	}
}

func TestCallFails(t *testing.T) {
	silent := make(chan struct{})
	for name, tc := range map[string]struct {
		answer func(net.Conn)
		cancel bool
		want   string
	}{
		"error":       {func(c net.Conn) { _, _ = Read(c); _ = json.NewEncoder(c).Encode(Answer{Error: "m9: gone"}) }, false, "m9: gone"},
		"went away":   {func(c net.Conn) { _, _ = Read(c) }, false, "went away"},
		"nonsense":    {func(c net.Conn) { _, _ = Read(c); _, _ = c.Write([]byte("]")) }, false, "invalid character"},
		"no answer":   {func(net.Conn) { <-silent }, true, "context canceled"},
		"no listener": {nil, false, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "none")
			if tc.answer != nil {
				socket = serve(t, tc.answer)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tc.cancel {
				defer close(silent)
				cancel()
			}
			_, err := Call(ctx, socket, Request{Op: OpStatus})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if tc.cancel && !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"op":"cut","ways":[{"from":"m1","to":"m2"}]}`)
	f.Add(`{"op":"status","within":-1}`)
	f.Add(`{"opp":1}`)
	f.Fuzz(func(t *testing.T, text string) {
		req, err := Read(strings.NewReader(text))
		if err == nil && req.Within <= 0 {
			t.Fatalf("%q: no time limit", text)
		}
	})
}
