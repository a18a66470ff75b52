package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/testwait"
)

const patience = 2 * time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var gossipKey = bytes.Repeat([]byte{7}, 32)

func testSealer(tb testing.TB, key []byte, cluster string) sealer {
	tb.Helper()
	s, err := newSealer(key, cluster)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	s := testSealer(t, gossipKey, "prod")
	o := Order{Token: pki.NewToken(time.Time{}), At: time.Unix(1800000000, 0).UTC(), By: "m1"}
	value, err := s.seal(o)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.open(value); err != nil || got != o {
		t.Errorf("read back %+v, %v", got, err)
	}
	if bytes.Contains(value, []byte(o.Token[8:20])) || bytes.Contains(value, []byte("m1")) {
		t.Errorf("it is not sealed: %s", value)
	}
	if again, err := s.seal(o); err != nil || bytes.Equal(again, value) {
		t.Error("sealed twice, it looks the same: the nonce is used again")
	}
	if got, err := s.open(must(s.seal(Order{By: "m2"}))); err != nil || !got.Revoked() {
		t.Errorf("a revocation: %+v, %v", got, err)
	}
	for name, other := range map[string]sealer{
		"another gossip key": testSealer(t, bytes.Repeat([]byte{8}, 32), "prod"),
		"another cluster":    testSealer(t, gossipKey, "test"),
	} {
		if _, err := other.open(value); !errors.Is(err, ErrSealed) {
			t.Errorf("opened with %s: %v", name, err)
		}
	}
	if _, err := s.open(must(s.seal(Order{Token: "a password"}))); !errors.Is(err, pki.ErrToken) {
		t.Errorf("a token of somebody's own: %v", err)
	}
	if _, err := s.open([]byte(`{"v":2}`)); !errors.Is(err, ErrSealed) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a later version: %v", err)
	}
	if _, err := newSealer(gossipKey[1:], "prod"); err == nil {
		t.Error("a short key was taken")
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func FuzzOpen(f *testing.F) {
	s := testSealer(f, gossipKey, "prod")
	value := must(s.seal(Order{By: "m1"}))
	f.Add(value)
	f.Add([]byte(`{"v":1,"nonce":"AAAA","text":"AAAA"}`))
	f.Add([]byte(`{"v":1,"nonce":"AAAAAAAAAAAAAAAA"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if o, err := s.open(text); err == nil && (!o.Revoked() || o.By != "m1") {
			t.Errorf("%q was opened as %+v", text, o)
		}
	})
}

func TestGood(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	s, err := New(etcd.Client(), gossipKey, "prod")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if o, err := s.Get(ctx); err != nil || o != nil {
		t.Errorf("before any order: %+v, %v", o, err)
	}
	a, b := pki.NewToken(time.Time{}), pki.NewToken(time.Time{})
	good := func(want error, text, when string) {
		t.Helper()
		if err := s.Good(ctx, text); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", when, err, want)
		} else if err != nil && strings.Contains(err.Error(), text[8:20]) {
			t.Errorf("%s: the error shows the token", when)
		}
	}
	good(nil, a, "before any order")
	put(t, s, Order{Token: b, At: time.Now(), By: "m1"})
	good(ErrNotGood, a, "replaced")
	good(nil, b, "the new one")
	put(t, s, Order{At: time.Now(), By: "m1"})
	good(ErrNotGood, b, "revoked")
	if _, err := etcd.Client().Put(ctx, Key, "rubbish"); err != nil {
		t.Fatal(err)
	}
	good(ErrSealed, b, "rubbish in etcd")
	etcd.Members[0].Stop()
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.Good(short, b); err == nil || errors.Is(err, ErrNotGood) {
		t.Errorf("without etcd: %v", err)
	}
}

func put(t *testing.T, s *Store, o Order) {
	t.Helper()
	if err := s.Put(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// watched collects what Watch tells.
type watched struct {
	mu       sync.Mutex
	orders   []Order
	troubles []error
}

func (w *watched) each(o Order) { w.mu.Lock(); defer w.mu.Unlock(); w.orders = append(w.orders, o) }
func (w *watched) trouble(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = append(w.troubles, err)
}

func (w *watched) waitLast(t *testing.T, by string) {
	t.Helper()
	testwait.For(t, "the order of "+by, patience, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.orders); n == 0 || w.orders[n-1].By != by {
			return fmt.Errorf("%d orders, troubles %v", n, w.troubles)
		}
		return nil
	})
}

func TestWatch(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	s, err := New(etcd.Client(), gossipKey, "prod")
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, Order{By: "before"})
	w := &watched{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Watch(ctx, w.each, w.trouble) }()
	defer func() { cancel(); <-done }()
	w.waitLast(t, "before")
	put(t, s, Order{By: "while"})
	w.waitLast(t, "while")
	// What cannot be opened is told, and the next order is taken all the same.
	if _, err := etcd.Client().Put(t.Context(), Key, "rubbish"); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Client().Delete(t.Context(), Key); err != nil {
		t.Fatal(err)
	}
	put(t, s, Order{By: "after rubbish"})
	w.waitLast(t, "after rubbish")
	w.mu.Lock()
	if len(w.troubles) != 1 || !errors.Is(w.troubles[0], ErrSealed) {
		t.Errorf("troubles %v, want ErrSealed", w.troubles)
	}
	w.mu.Unlock()
	// etcd may be away for long.
	etcd.Members[0].Stop()
	etcd.Members[0].Restart()
	put(t, s, Order{By: "after a restart"})
	w.waitLast(t, "after a restart")
}
