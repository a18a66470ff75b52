package master

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// Programs is where the programs of a master lie.
type Programs struct {
	Hactl       string // path
	Podmaster   string // path
	KubeBin     string // folder of kube-apiserver, kube-scheduler, kube-controller-manager, kubectl
	KubeVersion string // as kube-apiserver says; Find fills it in
}

var kubeComponents = []string{"kube-apiserver", "kube-scheduler", "kube-controller-manager"}

// Find checks that every program is there and can be run, reports all that are
// not, and fills in KubeVersion.
func (p *Programs) Find(ctx context.Context) error {
	var errs []error
	executable := func(path string) {
		fi, err := os.Stat(path)
		switch {
		case err != nil:
			errs = append(errs, err)
		case fi.IsDir() || fi.Mode()&0o111 == 0:
			errs = append(errs, fmt.Errorf("%s is not a program", path))
		}
	}
	executable(p.Hactl)
	executable(p.Podmaster)
	for _, c := range kubeComponents {
		executable(filepath.Join(p.KubeBin, c))
	}
	if err := errors.Join(errs...); err != nil {
		return exitcode.Errorf(exitcode.Failed, "programs are missing:\n%w", err).
			WithHint("make build kube, or --kube-bin DIR (HACTL_KUBE_BIN) for Kubernetes' programs")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	apiserver := filepath.Join(p.KubeBin, kubeComponents[0])
	out, err := exec.CommandContext(ctx, apiserver, "--version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", apiserver, err)
	}
	p.KubeVersion = strings.TrimPrefix(string(bytes.TrimSpace(out)), "Kubernetes ")
	return nil
}
