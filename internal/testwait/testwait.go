// Package testwait waits in tests for something outside the process, and says
// what was last wrong when it never comes.
package testwait

import (
	"testing"
	"time"
)

// For calls f until it returns nil, and ends the test with f's last error when
// timeout has passed. what completes the sentence "waiting for …".
func For(tb testing.TB, what string, timeout time.Duration, f func() error) {
	tb.Helper()
	deadline := time.Now().Add(timeout)
	pause := 5 * time.Millisecond
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("waiting for %s: still not after %v: %v", what, timeout, err)
		}
		time.Sleep(pause)
		pause = min(2*pause, 200*time.Millisecond)
	}
}
