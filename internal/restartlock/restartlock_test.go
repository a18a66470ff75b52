package restartlock

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.VerifyTestMain(m) }

func TestOneHolder(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	m1, m2, m3 := etcd.Client(), etcd.Client(), etcd.Client()
	held, err := Try(t.Context(), m1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Try(t.Context(), m2); !errors.Is(err, ErrTaken) {
		t.Fatalf("a second one: %v", err)
	}
	if owner := holds(t, m1, held); !owner {
		t.Error("the holder's condition is false")
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Wait(short, m3); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("waited in vain: %v", err)
	}

	got := make(chan *Lock)
	go func() {
		l, err := Wait(t.Context(), m2)
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	select {
	case <-got:
		t.Fatal("two holders")
	case <-time.After(300 * time.Millisecond):
	}
	held.Release()
	next := <-got
	if holds(t, m1, held) || !holds(t, m2, next) {
		t.Error("the condition is not the new holder's")
	}
	next.Release()
	// Neither who waited in vain nor who released is in the way.
	last, err := Try(t.Context(), m3)
	if err != nil {
		t.Fatal(err)
	}
	last.Release()
}

func TestWithoutQuorum(t *testing.T) {
	etcd := etcdtest.Start(t, 1, etcdtest.Options{})
	client := etcd.Client()
	etcd.Members[0].Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := Try(ctx, client); err == nil || errors.Is(err, ErrTaken) {
		t.Errorf("nobody answers, and: %v", err)
	}
}

func holds(t *testing.T, c *clientv3.Client, l *Lock) bool {
	t.Helper()
	resp, err := c.Txn(t.Context()).If(l.Held()).Commit()
	if err != nil {
		t.Fatal(err)
	}
	return resp.Succeeded
}
