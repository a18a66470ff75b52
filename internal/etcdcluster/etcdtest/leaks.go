package etcdtest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// leakPatience is how long goroutines may take to end: the connections between
// members do so only with their read timeout of 5 s.
const leakPatience = 20 * time.Second

// VerifyTestMain is the TestMain of packages that use this one: it calls Main,
// runs the tests, and fails when goroutines stay. It does not return.
func VerifyTestMain(m *testing.M, opts ...goleak.Option) {
	Main()
	code := m.Run()
	for end := time.Now().Add(leakPatience); code == 0; {
		err := goleak.Find(opts...)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, "goroutines stayed:", err)
			code = 1
		}
	}
	os.Exit(code)
}
