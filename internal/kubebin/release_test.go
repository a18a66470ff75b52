package kubebin

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hactl/hactl/internal/exitcode"
)

// fileServer serves files over TLS, as a release does. A nil content is a 404.
func fileServer(t *testing.T, files map[string]http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := files[r.URL.Path]; h != nil {
			h(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

func sum512(s string) string { h := sha512.Sum512([]byte(s)); return hex.EncodeToString(h[:]) }
func sum256(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }

func TestRelease(t *testing.T) {
	program := script("v0.1.2")
	first := "/base/v0.1.2/bin/" + runtime.GOOS + "/" + runtime.GOARCH + "/first"
	second := strings.TrimSuffix(first, "first") + "second"
	for _, c := range []struct {
		name string
		edit func(files map[string]http.HandlerFunc)
		want string // in the error; "": it is taken
		hint string
	}{
		{"right", func(map[string]http.HandlerFunc) {}, "", ""},
		{"sha256 only", func(f map[string]http.HandlerFunc) { f[second+".sha512"] = nil }, "", ""},
		{"sum with a file name", func(f map[string]http.HandlerFunc) {
			f[first+".sha512"] = text(strings.ToUpper(sum512(program)) + "  first\n")
		}, "", ""},
		{"wrong checksum", func(f map[string]http.HandlerFunc) { f[second] = text(script("v0.1.2 evil")) }, "download second v0.1.2: ", "nothing of it was kept"},
		{"wrong checksum, told", func(f map[string]http.HandlerFunc) { f[second] = text(script("v0.1.2 evil")) }, "the release says " + sum512(program), ""},
		{"wrong sha256", func(f map[string]http.HandlerFunc) {
			f[first+".sha512"], f[first+".sha256"] = nil, text(sum256("else"))
		}, "its sha256 is " + sum256(program), ""},
		{"truncated", func(f map[string]http.HandlerFunc) {
			f[first] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "1000")
				_, _ = io.WriteString(w, program)
			}
		}, "unexpected EOF", "the same command again"},
		{"program 404", func(f map[string]http.HandlerFunc) { f[second] = nil }, "404 Not Found", "KUBE=source builds it"},
		{"no checksum", func(f map[string]http.HandlerFunc) { f[first+".sha512"], f[first+".sha256"] = nil, nil }, "get its checksum: ", ""},
		{"empty checksum", func(f map[string]http.HandlerFunc) { f[first+".sha512"] = text("\n") }, "is empty", ""},
		{"an error page for a checksum", func(f map[string]http.HandlerFunc) { f[first+".sha512"] = text("<html>moved</html>") }, "holds no checksum of 64 bytes", ""},
		{"sha256 in .sha512", func(f map[string]http.HandlerFunc) { f[first+".sha512"] = text(sum256(program)) }, "holds no checksum of 64 bytes", ""},
		{"endless checksum", func(f map[string]http.HandlerFunc) { f[first+".sha512"] = text(strings.Repeat("a", 5000)) }, "more than 4096 bytes", ""},
		{"server error", func(f map[string]http.HandlerFunc) {
			f[first] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
		}, "502 Bad Gateway", ""},
		{"other version inside", func(f map[string]http.HandlerFunc) {
			other := script("v0.1.1")
			f[first], f[first+".sha512"] = text(other), text(sum512(other))
		}, `says "v0.1.1", want v0.1.2`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]http.HandlerFunc{}
			for _, p := range []string{first, second} {
				files[p], files[p+".sha512"], files[p+".sha256"] = text(program), text(sum512(program)+"\n"), text(sum256(program))
			}
			c.edit(files)
			srv := fileServer(t, files)
			set := tiny(t)
			set.ReleasePath = "/VERSION/bin/OS/ARCH/PROGRAM"
			s, out := newStore(t, Config{
				Go: "/nonexistent/go", HTTP: srv.Client(),
				Getenv: env("KUBE", "release", "HACTL_KUBE_RELEASE_URL", srv.URL+"/base/"),
			})
			dir, err := s.Find(t.Context(), set)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("got %s, %v; want %q", dir, err, c.want)
				}
				var e *exitcode.Error
				if c.hint != "" && (!errors.As(err, &e) || !strings.Contains(e.Hint, c.hint)) {
					t.Errorf("hint of %v is not %q", err, c.hint)
				}
				if err := leftovers(s.cfg.Cache, set.Name); err != nil {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := out.wants("downloading tiny v0.1.2 from "+srv.URL+"/base: first, second", "second (2 of 2): downloaded, checksum right"); err != nil {
				t.Error(err)
			}
			data, err := os.ReadFile(filepath.Join(dir, "second"))
			if err != nil || string(data) != program {
				t.Errorf("second: %q, %v", data, err)
			}
			srv.Close() // from now on the cache is enough
			if again, err := s.Find(t.Context(), set); err != nil || again != dir {
				t.Errorf("again: %s, %v", again, err)
			}
		})
	}
}

func TestReleaseIsNeverTriedUnasked(t *testing.T) {
	asked := false
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer srv.Close()
	for _, kube := range []string{"", "source"} {
		set := tiny(t)
		set.ReleasePath = "/PROGRAM"
		s, _ := newStore(t, Config{HTTP: srv.Client(), Go: fakeGo(t, "exit 1"), Getenv: env("KUBE", kube, "HACTL_KUBE_RELEASE_URL", srv.URL)})
		if dir, err := s.Find(t.Context(), set); err == nil {
			t.Errorf("KUBE=%q: got %s", kube, dir)
		}
	}
	if asked {
		t.Error("the release was asked for")
	}
}

func TestReleaseWantsTLS(t *testing.T) {
	plain := httptest.NewServer(text("x"))
	defer plain.Close()
	set := tiny(t)
	set.ReleasePath = "/PROGRAM"
	for _, base := range []string{plain.URL, "file:///tmp", "https://", "::", "dl.k8s.io/release"} {
		s, _ := newStore(t, Config{Getenv: env("KUBE", "release", "HACTL_KUBE_RELEASE_URL", base)})
		_, err := s.Find(t.Context(), set)
		if exitcode.Of(err) != exitcode.Usage || !strings.Contains(err.Error(), "want an https address") {
			t.Errorf("%s: %v", base, err)
		}
	}
	// Nor may an https address lead to a plain one.
	srv := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer srv.Close()
	s, _ := newStore(t, Config{HTTP: srv.Client(), Getenv: env("KUBE", "release", "HACTL_KUBE_RELEASE_URL", srv.URL)})
	if _, err := s.Find(t.Context(), set); err == nil || !strings.Contains(err.Error(), "which is not https") {
		t.Errorf("redirected: %v", err)
	}
	// The default is the official place.
	s, _ = newStore(t, Config{})
	if base, err := s.releaseURL(); err != nil || base != "https://dl.k8s.io/release" {
		t.Errorf("default %s, %v", base, err)
	}
}

func TestReleaseEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	defer srv.Close()
	set := tiny(t)
	set.ReleasePath = "/PROGRAM"
	s, _ := newStore(t, Config{HTTP: srv.Client(), Getenv: env("KUBE", "release", "HACTL_KUBE_RELEASE_URL", srv.URL)})
	if _, err := s.Find(ctx, set); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestUnknownKUBE(t *testing.T) {
	s, _ := newStore(t, Config{Getenv: env("KUBE", "relese")})
	if _, err := s.Find(t.Context(), tiny(t)); exitcode.Of(err) != exitcode.Usage {
		t.Errorf("got %v", err)
	}
}
