package collect

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
)

func TestMain(m *testing.M) {
	etcdtest.Main()
	goleak.VerifyTestMain(m)
}
