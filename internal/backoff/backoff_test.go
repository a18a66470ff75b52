package backoff

import (
	"testing"
	"time"
)

func TestGrowsToMaxAndResets(t *testing.T) {
	b := Backoff{Base: time.Second, Max: 5 * time.Second, Jitter: -1}
	for i, want := range []time.Duration{1, 2, 4, 5, 5} {
		if got := b.Next(); got != want*time.Second {
			t.Errorf("pause %d = %v, want %v", i, got, want*time.Second)
		}
	}
	b.Reset()
	if got := b.Next(); got != time.Second {
		t.Errorf("after Reset: %v, want 1s", got)
	}
}

func TestJitterStaysInItsBand(t *testing.T) {
	for range 1000 {
		b := Backoff{Base: time.Second, Jitter: 0.4}
		if got := b.Next(); got < 800*time.Millisecond || got > 1200*time.Millisecond {
			t.Fatalf("pause %v outside 1s ± 20 %%", got)
		}
	}
}

func TestManyTriesDoNotOverflow(t *testing.T) {
	b := Backoff{}
	for range 10_000 {
		if d := b.Next(); d <= 0 || d > 33*time.Second {
			t.Fatalf("pause %v", d)
		}
	}
}
