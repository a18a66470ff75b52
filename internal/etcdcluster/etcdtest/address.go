package etcdtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// claimPort is bound on an address for as long as the address is taken.
const claimPort = 2378

// Address claims a loopback address on which every port but 2378 is free, until
// the test ends. 127.0.0.0/16 is left to others: localhost and hactl dev live there.
func Address(tb testing.TB) string {
	tb.Helper()
	var last error
	for range 200 {
		addr := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		ln, err := net.Listen("tcp", net.JoinHostPort(addr, fmt.Sprint(claimPort)))
		if err != nil {
			last = err
			continue
		}
		tb.Cleanup(func() { _ = ln.Close() })
		return addr
	}
	tb.Fatalf("no free loopback address: %v", last)
	return ""
}
