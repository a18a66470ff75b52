package preflight

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// A part of a test that needs a machine of its own runs in this test program,
// started again in namespaces in which it is root and owns the network, the
// mounts and the host's name. Who starts it needs no rights but those of making a
// user namespace.
const insideEnv = "HACTL_PREFLIGHT_TEST_INSIDE"

// insides are those parts by name. What they return goes to the test as JSON.
var insides = map[string]func() (any, error){
	"small disk":  insideSmallDisk,
	"full disk":   insideFullDisk,
	"no bus":      insideNoBus,
	"no systemd":  insideNoSystemd,
	"two of us":   insideTwoOfUs,
	"neighbour":   insideNeighbour,
	"whole":       insideWhole,
	"read-only":   insideReadOnly,
	"old cluster": insideOldCluster,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(insideEnv); name != "" {
		out, err := insides[name]()
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(out)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// inside runs the named part in namespaces of its own.
func inside(t *testing.T, name string, out any) {
	t.Helper()
	cmd := insideCommand(name)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v (it needs user namespaces): %s", name, err, stderr.String())
	}
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatalf("%s: %v: %s", name, err, text)
	}
}

func insideCommand(name string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), insideEnv+"="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd
}

// run is a command inside, such as ip.
func run(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
