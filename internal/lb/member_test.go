package lb

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lb/pool"
)

// A backend that is overloaded is silent for new connections, but not dead: it
// keeps its share. One that is silent altogether does not.
func TestSilenceIsNoLieWhileOthersAreAnswered(t *testing.T) {
	answers := make(chan bool, 100) // for each connection: does it get an answer?
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			answer := <-answers
			go func() {
				defer c.Close()
				if answer {
					_, _ = io.Copy(c, c)
				} else {
					_, _ = io.Copy(io.Discard, c)
				}
			}()
		}
	}()
	cfg := Config{
		Source: Static([]Backend{{Name: "slow", Address: ln.Addr().String()}, {Name: "good", Address: echoServer(t)}}),
		Check:  Check{Kind: CheckNone}, ReplayPlain: true, Algorithm: "round-robin",
	}
	cfg.Data.ReplayAfter = 30 * time.Millisecond
	r := newRig(t, nil, cfg)
	r.until("slow", "ready")
	r.until("good", "ready")

	// A connection at the slow one goes on talking.
	old := func() net.Conn {
		for {
			answers <- true
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			say(t, c, "hello")
			if r.backend("slow").Connections == 1 {
				return c
			}
			<-answers // the other one took it
		}
	}()
	silent := func() { // a new connection at the slow one, which is moved on
		before := r.backend("slow").Replayed
		answers <- false
		eventually(t, "one to be moved on", func() bool {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintln(old, "still talking")
			say(t, c, "new")
			return r.backend("slow").Replayed > before
		})
	}
	drain := make([]byte, 1<<10)
	go func() {
		for {
			if _, err := old.Read(drain); err != nil {
				return
			}
		}
	}()
	for range distrustStreak + 2 {
		silent()
		fmt.Fprintln(old, "still talking")
	}
	m := r.member("slow")
	if _, mute := m.target.Streak(); mute < distrustStreak {
		t.Fatalf("only %d silent tries in a row", mute)
	}
	if b := r.backend("slow"); b.Distrusted || !b.Usable {
		t.Errorf("distrusted although it answers others: %+v", b)
	}
	// When it falls silent there, too, the next failures count.
	eventually(t, "its silence to be old enough", func() bool { return m.fails(time.Now(), r.cfg.Check.Timeout/2) })
	silentOnce := func() {
		answers <- false
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		say(t, c, "new")
	}
	eventually(t, "it to be distrusted", func() bool { silentOnce(); return r.backend("slow").Distrusted })
	if r.backend("slow").State != pool.Ready {
		t.Error("its probes are fine")
	}
}

func (r *rig) member(name string) *member {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.members {
		if m.backend.Name == name {
			return m
		}
	}
	r.tb.Fatalf("no backend %s", name)
	return nil
}
