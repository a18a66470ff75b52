//go:build faults || lab

package lease

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/process"
)

func TestMain(m *testing.M) {
	if spec, ok := os.LookupEnv(workEnv); ok {
		fmt.Fprintln(os.Stderr, work(spec))
		os.Exit(1)
	}
	etcdtest.Main()
	// Guards that outlive their podmaster for a moment are handed to us.
	if err := process.BecomeSubreaper(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// key is the singleton under test.
const key = "faults"

// ttl is podmaster's default.
const ttl = 3 * time.Second

// repeats is how often each fault happens.
func repeats(t *testing.T) int {
	t.Helper()
	text, ok := os.LookupEnv("HACTL_FAULT_REPEATS")
	if !ok {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("HACTL_FAULT_REPEATS %q: want a number", text)
	}
	return n
}
