package kubebin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// Config says where programs are kept and how they are made.
type Config struct {
	// Cache is the folder of all sets; default $HACTL_CACHE, else hactl in the
	// user's cache folder. It is made when needed.
	Cache string
	// Go is the go command; default go, found in PATH.
	Go string
	// Stderr takes progress and messages; default none.
	Stderr io.Writer
	// Terminal shows progress as one line that changes.
	Terminal bool
	// Every is the time between two lines of progress without a terminal;
	// default 15s.
	Every time.Duration
	// Getenv looks up HACTL_CACHE, HACTL_<SET>_BIN, KUBE and
	// HACTL_KUBE_RELEASE_URL; default os.Getenv.
	Getenv func(string) string
	// HTTP downloads releases; default http.DefaultClient.
	HTTP *http.Client
}

// Store is a cache of sets of programs.
type Store struct{ cfg Config }

// New returns the store that cfg describes. It errs where no cache folder can
// be told.
func New(cfg Config) (*Store, error) {
	if cfg.Getenv == nil {
		cfg.Getenv = os.Getenv
	}
	if cfg.Cache == "" {
		cfg.Cache = cfg.Getenv("HACTL_CACHE")
	}
	if cfg.Cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, exitcode.Errorf(exitcode.Usage, "find the cache folder: %w", err).WithHint("set HACTL_CACHE to a folder")
		}
		cfg.Cache = filepath.Join(user, "hactl")
	}
	abs, err := filepath.Abs(cfg.Cache)
	if err != nil {
		return nil, fmt.Errorf("find the cache folder: %w", err)
	}
	cfg.Cache = abs
	if cfg.Go == "" {
		cfg.Go = "go"
	}
	if cfg.Stderr == nil {
		cfg.Stderr = io.Discard
	}
	if cfg.Every <= 0 {
		cfg.Every = 15 * time.Second
	}
	if cfg.HTTP == nil {
		cfg.HTTP = http.DefaultClient
	}
	return &Store{cfg: cfg}, nil
}

// Find returns the folder that holds set's programs, making them if need be:
//
//   - HACTL_<SET>_BIN=DIR (HACTL_KUBE_BIN, …): the ones in DIR, after checking
//     that all are there and say set.Version;
//   - KUBE=release: the official release, downloaded once and verified;
//   - else built from source, once.
//
// The folder's path is absolute. An error names the program, what went wrong
// and, as an exitcode.Error, the way out; then the cache is as it was before.
func (s *Store) Find(ctx context.Context, set Set) (string, error) {
	if env := "HACTL_" + strings.ToUpper(set.Name) + "_BIN"; s.cfg.Getenv(env) != "" {
		return s.ready(ctx, set, env)
	}
	dir, fill, err := s.plan(ctx, set)
	if err != nil {
		return "", err
	}
	if intact(dir, set) == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("make the cache folder: %w", err)
	}
	unlock, err := s.lock(ctx, set.Name+" "+set.Version)
	if err != nil {
		return "", err
	}
	defer unlock()
	switch err := intact(dir, set); { // another process may have been faster
	case err == nil:
		return dir, nil
	case !errors.Is(err, fs.ErrNotExist):
		s.say("%s is damaged (%v): making it again", dir, err)
	}
	return dir, s.install(ctx, set, dir, fill)
}

// Where returns the folder in which Find keeps set's programs, whether or not
// they exist yet; its last element can key a cache of CI.
func (s *Store) Where(ctx context.Context, set Set) (string, error) {
	dir, _, err := s.plan(ctx, set)
	return dir, err
}

// plan returns the folder of set's programs and what fills it.
func (s *Store) plan(ctx context.Context, set Set) (dir string, fill func(ctx context.Context, set Set, dir string) error, err error) {
	switch how := s.cfg.Getenv("KUBE"); {
	case how == "release" && set.ReleasePath != "":
		base, err := s.releaseURL()
		if err != nil {
			return "", nil, err
		}
		sum := sha256.Sum256([]byte(base))
		name := fmt.Sprintf("%s-release-%s-%s-%s", set.Version, runtime.GOOS, runtime.GOARCH, hex.EncodeToString(sum[:4]))
		return filepath.Join(s.cfg.Cache, set.Name, name), s.download, nil
	case how == "" || how == "source" || how == "release":
		key, err := s.key(ctx, set)
		if err != nil {
			return "", nil, err
		}
		return filepath.Join(s.cfg.Cache, set.Name, set.Version+"-"+key), s.build, nil
	default:
		return "", nil, exitcode.Errorf(exitcode.Usage, "KUBE=%s: unknown", how).
			WithHint("KUBE=source (the default) or KUBE=release")
	}
}

// install fills dir by way of a folder beside it, so that dir is whole or not
// there. The caller holds the lock, so a leftover of a killed build is nobody's.
func (s *Store) install(ctx context.Context, set Set, dir string, fill func(context.Context, Set, string) error) error {
	old, err := filepath.Glob(filepath.Join(s.cfg.Cache, "*", ".new-*"))
	if err != nil {
		return err
	}
	for _, d := range old {
		if err := os.RemoveAll(d); err != nil {
			return fmt.Errorf("remove what a killed build left: %w", err)
		}
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return fmt.Errorf("make the cache folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	start := time.Now()
	if err := fill(ctx, set, tmp); err != nil {
		return err
	}
	for _, p := range set.Programs {
		if err := checkVersion(ctx, filepath.Join(tmp, p.Name), p, set.Version); err != nil {
			return fmt.Errorf("%s %s: %w", set.Name, p.Name, err)
		}
	}
	if err := writeManifest(tmp, set); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the damaged %s: %w", dir, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("put %s into the cache: %w", set.Name, err)
	}
	s.say("%s %s is ready in %s (took %s)", set.Name, set.Version, dir, time.Since(start).Round(time.Second))
	return nil
}

// manifest lists what a folder of the cache holds, so that a truncated or
// missing file is noticed without reading 300 MB at each start.
type manifest struct {
	Set     string           `json:"set"`
	Version string           `json:"version"`
	Sizes   map[string]int64 `json:"sizes"` // program → bytes
}

const manifestFile = "manifest.json"

func writeManifest(dir string, set Set) error {
	m := manifest{Set: set.Name, Version: set.Version, Sizes: map[string]int64{}}
	for _, p := range set.Programs {
		fi, err := os.Stat(filepath.Join(dir, p.Name))
		if err != nil {
			return fmt.Errorf("list %s: %w", set.Name, err)
		}
		m.Sizes[p.Name] = fi.Size()
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestFile), append(data, '\n'), 0o644)
}

// intact returns nil if dir holds all of set, fs.ErrNotExist if there is no
// dir, and otherwise what is wrong.
func intact(dir string, set Set) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	var m manifest
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return fmt.Errorf("%s is not readable", manifestFile) // not ErrNotExist: dir is there
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("%s: %w", manifestFile, err)
	}
	for _, p := range set.Programs {
		want, ok := m.Sizes[p.Name]
		fi, err := os.Stat(filepath.Join(dir, p.Name))
		switch {
		case err != nil || !ok:
			return fmt.Errorf("%s is missing", p.Name)
		case fi.Size() != want:
			return fmt.Errorf("%s has %d bytes instead of %d", p.Name, fi.Size(), want)
		case fi.Mode()&0o111 == 0:
			return fmt.Errorf("%s is not executable", p.Name)
		}
	}
	return nil
}

// Link makes path a symbolic link to dir, replacing an older link in one step.
// It refuses to replace anything else.
func Link(path, dir string) error {
	fi, err := os.Lstat(path)
	switch {
	case err == nil && fi.Mode()&fs.ModeSymlink == 0:
		return exitcode.Errorf(exitcode.Refused, "link %s: it exists and is no symbolic link", path).
			WithHint("move %s away, or name another path", path)
	case err == nil:
		if to, err := os.Readlink(path); err == nil && to == dir {
			return nil
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("link %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	tmp := fmt.Sprintf("%s.new-%d", path, os.Getpid())
	if err := os.Symlink(dir, tmp); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("link %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}
