package systemd

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/hactl/hactl/internal/workload/workloadtest"
)

func TestMain(m *testing.M) {
	if code, ok := workloadtest.Helper(os.Args); ok {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}
