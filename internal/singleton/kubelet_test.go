package singleton

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// kubeletServer answers as kubelet does, over TLS: answers of a kubelet 1.36,
// shortened to a few fields.
type kubeletServer struct {
	*httptest.Server
	ca string

	mu            sync.Mutex
	pods, running []string // NAMESPACE/NAME
	noDebugging   bool
	runs          func(n int) []string // instead of running, at the nth question for it
	asked         int                  // for what runs
}

func newKubeletServer(t *testing.T) *kubeletServer {
	t.Helper()
	k := &kubeletServer{}
	k.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		var list []string
		switch r.URL.Path {
		case "/pods":
			list = k.pods
		case "/runningpods/":
			if k.noDebugging {
				http.Error(w, "Debug endpoints are disabled.", http.StatusMethodNotAllowed)
				return
			}
			k.asked++
			if list = k.running; k.runs != nil {
				list = k.runs(k.asked)
			}
		default:
			http.NotFound(w, r)
			return
		}
		var items []string
		for _, p := range list {
			ns, name, _ := strings.Cut(p, "/")
			items = append(items, fmt.Sprintf(`{"metadata":{"name":%q,"namespace":%q,"uid":"1"},"spec":{"containers":[{"name":"c"}]},"status":{}}`, name, ns))
		}
		fmt.Fprintf(w, `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[%s]}`, strings.Join(items, ","))
	}))
	t.Cleanup(k.Close)
	k.ca = filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate().Raw})
	if err := os.WriteFile(k.ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *kubeletServer) set(pods, running []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pods, k.running = pods, running
}

// script sets what runs at the nth question from now on, and returns how many there
// were before.
func (k *kubeletServer) script(runs func(n int) []string) (asked int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	asked, k.asked, k.runs = k.asked, 0, runs
	return asked
}

const schedulerPod = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-scheduler, namespace: kube-system}\nspec: {}\n"

func manifestFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestKubeletConfirms(t *testing.T) {
	server := newKubeletServer(t)
	k, err := NewKubelet(KubeletConfig{URL: server.URL, CAFile: server.ca, Manifest: manifestFile(t, schedulerPod), Settle: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	const mine, other = "kube-system/kube-scheduler-m1", "kube-system/kube-apiserver-m1"
	for name, c := range map[string]struct {
		pods, running []string
		want          string // empty: stopped
	}{
		"wanted and running": {[]string{other, mine}, []string{mine}, "/pods still has " + mine},
		"not started yet":    {[]string{mine}, nil, "/pods still has"},
		// What /pods alone would get wrong: kubelet forgets the pod first, and stops it then.
		"is being stopped":   {[]string{other}, []string{other, mine}, "/runningpods/ still has " + mine},
		"stopped":            {[]string{other}, []string{other}, ""},
		"nothing at all":     {nil, nil, ""},
		"another namespace":  {[]string{"default/kube-scheduler-m1"}, nil, ""},
		"a longer name":      {[]string{"kube-system/kube-schedulerx"}, nil, ""},
		"one that may be it": {nil, []string{"kube-system/kube-scheduler-x-y"}, "still has"},
	} {
		server.set(c.pods, c.running)
		ctx, cancel := context.WithCancel(t.Context())
		server.script(func(n int) []string {
			if n == 3 {
				cancel()
			}
			return c.running
		})
		err := k.Stopped(ctx)
		cancel()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	server.set(nil, nil)
	server.script(nil)
	server.mu.Lock()
	server.noDebugging = true
	server.mu.Unlock()
	if err := k.Stopped(t.Context()); err == nil || !strings.Contains(err.Error(), "405") {
		t.Errorf("without /runningpods/: %v: nothing says that it stopped", err)
	}
	server.Close()
	if err := k.Stopped(t.Context()); err == nil {
		t.Error("a kubelet that does not answer says that the pod stopped")
	}
}

// Kubelet answers from memory: a list from before the pod's start does not say that
// it stopped; the next one after one with the pod does.
func TestKubeletsListsAreOld(t *testing.T) {
	server := newKubeletServer(t)
	manifest := manifestFile(t, schedulerPod)
	const pod = "kube-system/kube-scheduler-m1"
	for name, c := range map[string]struct {
		settle time.Duration
		runs   []string // at each question; empty: none
	}{
		"a list from before its start":  {time.Millisecond, []string{"", pod, pod, ""}},
		"it runs, and then it does not": {time.Hour, []string{pod, pod, ""}},
		"two lists without it":          {time.Millisecond, []string{"", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := NewKubelet(KubeletConfig{URL: server.URL, CAFile: server.ca, Manifest: manifest, Settle: c.settle})
			if err != nil {
				t.Fatal(err)
			}
			server.script(func(n int) []string {
				if n > len(c.runs) || c.runs[n-1] == "" {
					return nil
				}
				return c.runs[n-1 : n]
			})
			err = k.Stopped(t.Context())
			if asked := server.script(nil); err != nil || asked != len(c.runs) {
				t.Errorf("%v after %d lists, want nil after %d", err, asked, len(c.runs))
			}
		})
	}
}

func TestNewKubeletRefuses(t *testing.T) {
	server := newKubeletServer(t)
	good := manifestFile(t, schedulerPod)
	for name, c := range map[string]struct {
		cfg  KubeletConfig
		want string
	}{
		"no URL":         {KubeletConfig{URL: "127.0.0.1:10250", Manifest: good}, "want https"},
		"unverified":     {KubeletConfig{URL: "https://192.0.2.1:10250", Insecure: true, Manifest: good}, "loopback"},
		"no CA":          {KubeletConfig{URL: server.URL, CAFile: "/none", Manifest: good}, "no such file"},
		"CA without one": {KubeletConfig{URL: server.URL, CAFile: good, Manifest: good}, "no certificate"},
		"half a pair":    {KubeletConfig{URL: server.URL, CertFile: good, Manifest: good}, "both"},
		"no pair":        {KubeletConfig{URL: server.URL, CertFile: good, KeyFile: good, Manifest: good}, "PEM"},
		"no manifest":    {KubeletConfig{URL: server.URL, Manifest: "/none"}, "no such file"},
		"no pod":         {KubeletConfig{URL: server.URL, Manifest: manifestFile(t, "kind: Service\n")}, "no Pod"},
		"no YAML":        {KubeletConfig{URL: server.URL, Manifest: manifestFile(t, "{")}, "manifest"},
	} {
		if _, err := NewKubelet(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	k, err := NewKubelet(KubeletConfig{URL: server.URL, Manifest: good})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Stopped(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown CA: %v", err)
	}
}

func TestConfirm(t *testing.T) {
	if Confirm(nil, nil) != nil {
		t.Error("confirmed by nobody")
	}
	yes, no := func(context.Context) error { return nil }, func(context.Context) error { return errors.New("no") }
	if both(yes, no)(t.Context()) == nil || both(no, yes)(t.Context()) == nil || both(yes, yes)(t.Context()) != nil {
		t.Error("both must say so")
	}
}
