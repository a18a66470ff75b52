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

// etcdStays is what a member that was asked for its version by another one in the very
// moment of its stop leaves behind: etcd panics there with a lock held (baseReadTx
// without a transaction), net/http recovers, and the next one who asks waits for the
// lock until the process ends. A real member's process is about to.
var etcdStays = goleak.IgnoreAnyFunction("go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp.newPeerHandler.versionHandler.func1")

// VerifyTestMain is the TestMain of packages that use this one: it calls Main,
// runs the tests, and fails when goroutines stay. It does not return.
func VerifyTestMain(m *testing.M, opts ...goleak.Option) {
	Main()
	code := m.Run()
	for end := time.Now().Add(leakPatience); code == 0; {
		err := goleak.Find(append(opts, etcdStays)...)
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
