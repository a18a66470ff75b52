package kubebin

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// officialRelease is where Kubernetes publishes its releases.
const officialRelease = "https://dl.k8s.io/release"

// maxProgram is the largest download taken, in bytes; kube-apiserver has 1e8.
const maxProgram = 1 << 30

// errNotFound is returned for a 404.
var errNotFound = errors.New("404 Not Found")

// releaseURL is the base address of the release, without a slash at its end.
func (s *Store) releaseURL() (string, error) {
	base := s.cfg.Getenv("HACTL_KUBE_RELEASE_URL")
	if base == "" {
		return officialRelease, nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		// The checksums come from the same place, so only TLS vouches for them.
		return "", exitcode.Errorf(exitcode.Usage, "HACTL_KUBE_RELEASE_URL=%s: want an https address", base).
			WithHint("unset it for %s", officialRelease)
	}
	return strings.TrimRight(base, "/"), nil
}

// download fills dir with the official release of set.
func (s *Store) download(ctx context.Context, set Set, dir string) error {
	base, err := s.releaseURL()
	if err != nil {
		return err
	}
	s.say("downloading %s %s from %s: %s", set.Name, set.Version, base, strings.Join(names(set), ", "))
	for i, p := range set.Programs {
		path := strings.NewReplacer("VERSION", set.Version, "OS", runtime.GOOS, "ARCH", runtime.GOARCH, "PROGRAM", p.Name).Replace(set.ReleasePath)
		bar := s.progress()
		what := fmt.Sprintf("%s (%d of %d)", p.Name, i+1, len(set.Programs))
		if err := s.fetchVerified(ctx, base+path, filepath.Join(dir, p.Name), func(n int64) {
			bar.update("%s: %d MB downloaded", what, n>>20)
		}); err != nil {
			bar.abort()
			e := exitcode.Errorf(exitcode.Failed, "download %s %s: %w", p.Name, set.Version, err)
			if errors.Is(err, errNotFound) {
				return e.WithHint("see whether %s has %s for %s/%s; KUBE=source builds it", base, set.Version, runtime.GOOS, runtime.GOARCH)
			}
			return e.WithHint("the same command again, or KUBE=source to build from source; nothing of it was kept")
		}
		bar.done("%s: downloaded, checksum right", what)
	}
	return nil
}

// fetchVerified downloads address to path, and errs unless its checksum, from
// address.sha512 or else address.sha256, is right.
func (s *Store) fetchVerified(ctx context.Context, address, path string, tick func(int64)) error {
	newHash, ext := sha512.New, ".sha512"
	want, err := s.fetchSum(ctx, address+ext, sha512.Size)
	if errors.Is(err, errNotFound) {
		newHash, ext = sha256.New, ".sha256"
		want, err = s.fetchSum(ctx, address+ext, sha256.Size)
	}
	if err != nil {
		return fmt.Errorf("get its checksum: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer f.Close()
	h := newHash()
	if err := s.fetch(ctx, address, maxProgram, io.MultiWriter(f, h, counter(tick))); err != nil {
		return err
	}
	if got := sum(h); got != want {
		return fmt.Errorf("%s: its %s is %s, the release says %s", address, ext[1:], got, want)
	}
	return f.Close()
}

// fetchSum returns the checksum of size bytes, in hex, that address holds:
// alone, or as sha512sum prints it.
func (s *Store) fetchSum(ctx context.Context, address string, size int) (string, error) {
	var b strings.Builder
	if err := s.fetch(ctx, address, 4096, &b); err != nil {
		return "", err
	}
	fields := strings.Fields(b.String())
	if len(fields) == 0 {
		return "", fmt.Errorf("%s is empty", address)
	}
	got := strings.ToLower(fields[0])
	if raw, err := hex.DecodeString(got); err != nil || len(raw) != size {
		return "", fmt.Errorf("%s holds no checksum of %d bytes but %.60q", address, size, b.String())
	}
	return got, nil
}

// fetch copies what address serves, at most limit bytes, to w.
func (s *Store) fetch(ctx context.Context, address string, limit int64, w io.Writer) error {
	// A server that stops sending is given up, however long the whole takes.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(time.Minute, func() { cancel(errors.New("the server sent nothing for a minute")) })
	defer idle.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := s.cfg.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("get %s: %w", address, orCause(ctx, err))
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("get %s: %w", address, errNotFound)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("get %s: %s", address, resp.Status)
	case resp.Request.URL.Scheme != "https":
		return fmt.Errorf("get %s: it leads to %s, which is not https", address, resp.Request.URL)
	}
	n, err := io.Copy(w, &idleReader{r: io.LimitReader(resp.Body, limit+1), reset: func() { idle.Reset(time.Minute) }})
	switch {
	case err != nil:
		return fmt.Errorf("get %s: after %d bytes: %w", address, n, orCause(ctx, err))
	case n > limit:
		return fmt.Errorf("get %s: it has more than %d bytes", address, limit)
	case ctx.Err() != nil: // and the server took that for a reason to end
		return fmt.Errorf("get %s: %w", address, context.Cause(ctx))
	}
	return nil
}

func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// idleReader calls reset after each read that brought something.
type idleReader struct {
	r     io.Reader
	reset func()
}

func (r *idleReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.reset()
	}
	return n, err
}

// counter is a writer that tells tick how many bytes came so far.
func counter(tick func(int64)) io.Writer {
	var n int64
	return writerFunc(func(p []byte) (int, error) {
		n += int64(len(p))
		tick(n)
		return len(p), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
