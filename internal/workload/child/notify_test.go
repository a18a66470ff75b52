package child

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/internal/workload/workloadtest"
)

func TestParseMessage(t *testing.T) {
	str := func(s string) *string { return &s }
	for in, want := range map[string]message{
		"":                                {},
		"READY=1":                         {ready: true},
		"READY=0":                         {},
		"READY=1\nREADY=0":                {ready: true},
		"READY=1\nSTATUS=serving a=b\n":   {ready: true, status: str("serving a=b")},
		"STATUS=":                         {status: str("")},
		"STATUS=\xff":                     {status: str("?")},
		"WATCHDOG=1":                      {ping: true},
		"WATCHDOG=trigger":                {trigger: true},
		"WATCHDOG_USEC=2000000":           {watchdog: 2 * time.Second},
		"WATCHDOG_USEC=-1":                {},
		"WATCHDOG_USEC=99999999999999999": {},
		"STOPPING=1":                      {stopping: true},
		"EXTEND_TIMEOUT_USEC=1500000":     {extend: 1500 * time.Millisecond},
		"MAINPID=1\nFDSTORE=1\nX":         {},
		"ready=1":                         {},
	} {
		if got := parseMessage([]byte(in)); !reflect.DeepEqual(got, want) {
			t.Errorf("parseMessage(%q) = %+v, want %+v", in, got, want)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=x\nWATCHDOG_USEC=5\nEXTEND_TIMEOUT_USEC=18446744073709551615"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parseMessage(b)
		if m.extend < 0 || m.watchdog < 0 || m.extend > 24*time.Hour || m.watchdog > 24*time.Hour {
			t.Errorf("times out of range: %+v", m)
		}
		if m.ready && !strings.Contains(string(b), "READY=1") {
			t.Errorf("ready out of nothing: %q", b)
		}
	})
}

func FuzzSenderPID(f *testing.F) {
	f.Add(unix.UnixCredentials(&unix.Ucred{Pid: 7}))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if strings.Contains(string(b), "\x01\x00\x00\x00\x01\x00\x00\x00") {
			return // SCM_RIGHTS: would close descriptors of this process
		}
		if pid, err := senderPID(b); err == nil && pid <= 0 {
			t.Errorf("pid %d without an error", pid)
		}
	})
}

type heard struct {
	pid int
	m   message
}

func listen(t *testing.T) (path string, got <-chan heard) {
	t.Helper()
	path = filepath.Join(shortDir(t), "n.sock")
	conn, err := listenNotify(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	c := make(chan heard, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		readNotify(conn, logging.Discard(), func(pid int, m message) { c <- heard{pid, m} })
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return path, c
}

func next(t *testing.T, got <-chan heard) heard {
	t.Helper()
	select {
	case h := <-got:
		return h
	case <-time.After(workloadtest.Limit):
		t.Fatal("no notification came")
		return heard{}
	}
}

func TestNotifySocketIsPrivateAndKnowsTheSender(t *testing.T) {
	path, got := listen(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	if h := next(t, got); h.pid != os.Getpid() || !h.m.ready {
		t.Errorf("heard %+v, want ready from %d", h, os.Getpid())
	}
}

func TestNotifyDropsWhatIsTooLong(t *testing.T) {
	path, got := listen(t)
	c, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, s := range []string{"READY=1\nSTATUS=" + strings.Repeat("x", maxMessage), "STATUS=" + strings.Repeat("y", maxMessage-7)} {
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if h := next(t, got); h.m.ready || h.m.status == nil || len(*h.m.status) != maxMessage-7 {
		t.Errorf("heard %+v first, want only the message that fits", h)
	}
}

func TestNotifyClosesDescriptorsThatComeAlong(t *testing.T) {
	path, got := listen(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendmsg(fd, []byte("FDSTORE=1"), unix.UnixRights(int(w.Fd())), &unix.SockaddrUnix{Name: path}, 0); err != nil {
		t.Fatal(err)
	}
	next(t, got)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The last writer is gone only if the socket's side has closed its copy.
	end := make(chan error, 1)
	go func() { _, err := r.Read(make([]byte, 1)); end <- err }()
	select {
	case err := <-end:
		if err == nil || err.Error() != "EOF" {
			t.Errorf("read = %v, want EOF", err)
		}
	case <-time.After(workloadtest.Limit):
		t.Error("the descriptor is still open somewhere")
	}
}
