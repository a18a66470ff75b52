package dataplane

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unixServer handles each connection until the test ends.
func unixServer(t *testing.T, handle func(*net.UnixConn)) *Target {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			handle(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	target, err := NewUnixTarget("u", path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// A server on a unix socket that speaks first and leaves, before the loop has
// looked at the connection again: the kernel then reports that both directions are
// over together with the first event.
func TestUnixServerThatSpeaksAndLeaves(t *testing.T) {
	left := make(chan struct{}, 1)
	target := unixServer(t, func(c *net.UnixConn) {
		_, _ = io.WriteString(c, "bye")
		_ = c.Close()
		left <- struct{}{}
	})
	p := start(t, Config{Router: &inOrder{targets: []*Target{target}}, Loops: 1})
	inside, dialled := make(chan struct{}), make(chan struct{})
	p.loops[0].post(func(l *loop) {
		close(inside)
		<-dialled
		l.accept(0)
		<-left
	})
	<-inside
	c := p.dial(t)
	close(dialled)
	if said, err := io.ReadAll(c); string(said) != "bye" || err != nil {
		t.Errorf("got %q, %v", said, err)
	}
	if s := p.Stats(); s.Retries != 0 || s.NoBackend != 0 {
		t.Errorf("stats %+v", s)
	}
}

// A client on a unix socket that says everything and leaves before its backend is
// connected: what it said arrives.
func TestUnixClientThatSpeaksAndLeaves(t *testing.T) {
	heard := make(chan string, 1)
	target := server(t, "a", func(c *net.TCPConn) {
		all, _ := io.ReadAll(c)
		heard <- string(all)
	})
	e, err := New(Config{Router: &inOrder{targets: []*Target{target}}, Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "front")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := dupFD(f)
	if err == nil {
		err = e.Listen(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	// It has come and gone before anybody looks.
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "last words")
	_ = c.Close()
	runUntilEnd(t, e)
	select {
	case got := <-heard:
		if got != "last words" {
			t.Errorf("the backend heard %q", got)
		}
	case <-time.After(patience):
		t.Error("the backend heard nothing")
	}
}

// A loop that begins to watch a listener again, because its pause is over, just
// while the listener is given to a successor, must not be left watching it.
func TestListenerIsLeftAfterAPause(t *testing.T) {
	p := start(t, Config{Router: &inOrder{}, Loops: 1})
	left := make(chan error, 1)
	p.loops[0].post(func(l *loop) {
		fds := p.forgetListeners()
		l.watchListener(0, fds[0]) // what a loop does that read the list before
		l.leaveListeners(fds)
		left <- unix.EpollCtl(l.ep, unix.EPOLL_CTL_DEL, int(fds[0]), nil)
		rawClose(fds[0])
	})
	if err := <-left; !errors.Is(err, unix.ENOENT) {
		t.Errorf("taking the listener out of epoll: %v, want that it was not there", err)
	}
}
