package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/version"
)

// lookPrograms runs each program of a master to ask for its version, which also
// shows that it can be run.
func lookPrograms(ctx context.Context, cfg Config) (programs []Program, kubelet string) {
	hactl := cfg.Hactl
	if hactl == "" {
		self, err := os.Executable()
		if err != nil {
			self = os.Args[0]
		}
		hactl = self
		programs = append(programs, Program{Path: self, Version: version.String()}) // it runs
	} else {
		programs = append(programs, lookProgram(ctx, hactl, false))
	}
	podmaster := cfg.Podmaster
	if podmaster == "" {
		podmaster = besideReal(hactl, "podmaster")
	}
	programs = append(programs, lookProgram(ctx, podmaster, false))
	if cfg.Cluster != nil {
		for _, name := range []string{"kube-apiserver", config.KubeScheduler, config.KubeControllerManager} {
			programs = append(programs, lookProgram(ctx, filepath.Join(cfg.Cluster.Kubernetes.BinDir, name), true))
		}
	}
	if path, err := exec.LookPath("kubelet"); err == nil {
		kubelet = lookProgram(ctx, path, true).Version
	}
	return programs, kubelet
}

// besideReal is the program called name in the folder of program, links
// followed.
func besideReal(program, name string) string {
	if path, err := filepath.EvalSymlinks(program); err == nil {
		program = path
	}
	return filepath.Join(filepath.Dir(program), name)
}

func lookProgram(ctx context.Context, path string, kubernetes bool) Program {
	p := Program{Path: path, Kubernetes: kubernetes}
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		p.Err = err
		return p
	case fi.IsDir() || fi.Mode()&0o111 == 0:
		p.Err = fmt.Errorf("%s is not a program (mode %v)", path, fi.Mode())
		return p
	}
	cmd := exec.CommandContext(ctx, path, "--version")
	out, err := cmd.Output()
	if err != nil {
		p.Err = fmt.Errorf("%s does not run: %w", path, plainer(err))
		return p
	}
	line, _, _ := strings.Cut(string(bytes.TrimSpace(out)), "\n")
	// "Kubernetes v1.36.3", "hactl version v0.1.0 go1.26": the version follows the name.
	_, p.Version, _ = strings.Cut(line, " ")
	p.Version = strings.TrimPrefix(p.Version, "version ")
	if p.Version == "" {
		p.Err = fmt.Errorf("%s --version says %q", path, line)
	}
	return p
}

// plainer says what the usual errors of starting a program mean.
func plainer(err error) error {
	var exit *exec.ExitError
	switch {
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%w (made for another kind of machine?)", err)
	case errors.As(err, &exit) && len(exit.Stderr) > 0:
		line, _, _ := strings.Cut(string(bytes.TrimSpace(exit.Stderr)), "\n")
		return fmt.Errorf("%w: %s", err, line)
	}
	return err
}
