package kubebin

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// key returns a short hash of all that decides what a build of set produces.
func (s *Store) key(ctx context.Context, set Set) (string, error) {
	var env strings.Builder
	err := s.goCommand(ctx, set, []string{
		"env", "GOVERSION", "GOOS", "GOARCH", "GOAMD64", "GOARM64", "GOEXPERIMENT", "GOFIPS140",
	}, &env, nil)
	if err != nil {
		return "", s.explain(fmt.Errorf("ask go for its version: %w", err), err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%q\n", set.Name, set.Version, env.String())
	for _, p := range set.Programs {
		fmt.Fprintf(h, "%q\n", s.buildArgs(set, p, ""))
	}
	var files []string
	err = filepath.WalkDir(set.Module, func(path string, d fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err == nil && !d.IsDir() && (name == "go.mod" || name == "go.sum" || strings.HasSuffix(name, ".go")) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the module %s: %w", set.Module, err)
	}
	slices.Sort(files)
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the module %s: %w", set.Module, err)
		}
		rel, err := filepath.Rel(set.Module, path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %x\n", filepath.ToSlash(rel), sha256.Sum256(data))
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

func (s *Store) buildArgs(set Set, p Program, out string) []string {
	return []string{
		"build", "-v", "-trimpath", "-buildvcs=false", "-tags=" + set.Tags,
		"-ldflags=" + strings.TrimSpace("-s -w -buildid= "+set.LDFlags),
		"-o", out, p.Package,
	}
}

// build compiles set's programs into dir, one after the other.
func (s *Store) build(ctx context.Context, set Set, dir string) error {
	s.say("building %s %s from source, once: %s", set.Name, set.Version, strings.Join(names(set), ", "))
	total, err := s.countPackages(ctx, set)
	if err != nil {
		return err
	}
	compiled := 0
	for i, p := range set.Programs {
		bar := s.progress()
		what := fmt.Sprintf("%s (%d of %d)", p.Name, i+1, len(set.Programs))
		state := "looking for what is compiled already"
		err := s.goCommand(ctx, set, s.buildArgs(set, p, filepath.Join(dir, p.Name)), io.Discard, func(line string) {
			if packageLine.MatchString(line) {
				compiled++
				state = fmt.Sprintf("%d packages compiled of at most %d", compiled, total)
				if line == p.Package {
					state = "linking"
				}
			}
			bar.update("%s: %s", what, state)
		})
		if err != nil {
			bar.abort()
			return s.explain(fmt.Errorf("build %s %s: %w", p.Name, set.Version, err), err)
		}
		bar.done("%s: built", what)
	}
	return nil
}

// countPackages returns how many packages set's programs consist of. The
// modules are downloaded on the way.
func (s *Store) countPackages(ctx context.Context, set Set) (int, error) {
	args := []string{"list", "-deps", "-tags=" + set.Tags}
	for _, p := range set.Programs {
		args = append(args, p.Package)
	}
	bar := s.progress()
	modules := 0
	var out strings.Builder
	err := s.goCommand(ctx, set, args, &out, func(line string) {
		if strings.HasPrefix(line, "go: downloading ") {
			modules++
		}
		bar.update("%s: %d modules downloaded", set.Name, modules)
	})
	if err != nil {
		bar.abort()
		return 0, s.explain(fmt.Errorf("find the packages of %s %s: %w", set.Name, set.Version, err), err)
	}
	if modules > 0 || bar.open {
		bar.done("%s: %d modules downloaded", set.Name, modules)
	}
	return strings.Count(out.String(), "\n"), nil
}

// packageLine is what `go build -v` writes for each package that it compiles.
var packageLine = regexp.MustCompile(`^[\w.~/+-]+$`)

// goError is a go command that ended badly.
type goError struct {
	err    error
	output string // the last lines that it wrote, without packages and downloads
}

func (e *goError) Error() string {
	if e.output == "" {
		return e.err.Error()
	}
	return e.err.Error() + "\n" + e.output
}

func (e *goError) Unwrap() error { return e.err }

// goCommand runs the go command in set's module. tick gets each line of its
// stderr, and "" once a second; it is called from one goroutine, this one.
func (s *Store) goCommand(ctx context.Context, set Set, args []string, stdout io.Writer, tick func(string)) error {
	cmd := exec.CommandContext(ctx, s.cfg.Go, args...)
	cmd.Dir = set.Module
	cmd.Env = s.goEnv()
	cmd.Stdout = stdout
	// A group of its own, so that the compilers end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	r, w := io.Pipe()
	cmd.Stderr = w
	lines := make(chan string)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(r); sc.Scan(); {
			lines <- sc.Text()
		}
		_, _ = io.Copy(io.Discard, r) // after a line beyond Scanner's limit
	}()
	done := make(chan error, 1)
	go func() {
		err := cmd.Run()
		w.Close()
		done <- err
	}()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var tail []string
	for open := true; open; {
		var line string
		select {
		case line, open = <-lines:
			if line != "" && !packageLine.MatchString(line) && !strings.HasPrefix(line, "go: downloading ") {
				tail = append(tail, line)
				tail = tail[max(0, len(tail)-25):]
			}
		case <-ticker.C:
		}
		if open && tick != nil {
			tick(line)
		}
	}
	if err := <-done; err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return &goError{err: err, output: strings.Join(tail, "\n")}
	}
	return nil
}

// goEnv is the environment of the go command: ours, except what would make two
// builds of one key differ.
func (s *Store) goEnv() []string {
	flags := []string{"-mod=readonly"}
	for _, f := range strings.Fields(s.cfg.Getenv("GOFLAGS")) {
		if f == "-modcacherw" || strings.HasPrefix(f, "-p=") {
			flags = append(flags, f)
		}
	}
	return append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS="+strings.Join(flags, " "))
}

// explain adds the way out to the error of a go command.
func (s *Store) explain(err, cause error) error {
	var ge *goError
	output := ""
	if errors.As(cause, &ge) {
		output = ge.output
	}
	e := exitcode.Errorf(exitcode.Failed, "%w", err)
	switch {
	case errors.Is(cause, exec.ErrNotFound):
		return e.WithHint("install Go (https://go.dev/dl) and have it in PATH, or give ready programs with HACTL_KUBE_BIN=DIR")
	case errors.Is(cause, context.Canceled):
		return e.WithHint("the same command again; what is compiled already is kept")
	case containsAny(output, "no space left on device", "disk quota exceeded"):
		return e.WithHint("free some space: a build needs about 4 GB for Go's caches (go env GOCACHE GOMODCACHE) and 0.5 GB in %s", s.cfg.Cache)
	case containsAny(output, "signal: killed"):
		return e.WithHint("too little memory, most likely (2.2 GB are needed): GOFLAGS=-p=1 builds with less; what is compiled already is kept")
	case containsAny(output, "dial tcp", "no such host", "connection refused", "i/o timeout", "proxyconnect", "TLS handshake", "502 Bad Gateway", "503 Service"):
		return e.WithHint("the Go module proxy must be reachable (go env GOPROXY); or give ready programs with HACTL_KUBE_BIN=DIR, or download the official release with KUBE=release")
	case containsAny(output, "checksum mismatch", "SECURITY ERROR"):
		return e.WithHint("what was downloaded is not what go.sum says: do not use it; look at GOPROXY, then `go clean -modcache`")
	default:
		return e
	}
}

func containsAny(s string, subs ...string) bool {
	return slices.ContainsFunc(subs, func(sub string) bool { return strings.Contains(s, sub) })
}

func names(set Set) []string {
	var out []string
	for _, p := range set.Programs {
		out = append(out, p.Name)
	}
	return out
}
