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
	arrives       string // is running from the third question on
	asked         int
}

func newKubeletServer(t *testing.T) *kubeletServer {
	t.Helper()
	k := &kubeletServer{}
	k.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.asked++; k.asked > 2 && k.arrives != "" {
			k.running = []string{k.arrives}
		}
		var list []string
		switch r.URL.Path {
		case "/pods":
			list = k.pods
		case "/runningpods/":
			if k.noDebugging {
				http.Error(w, "Debug endpoints are disabled.", http.StatusMethodNotAllowed)
				return
			}
			list = k.running
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
		err := k.Stopped(t.Context())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	server.set(nil, nil)
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

func TestKubeletLooksTwice(t *testing.T) {
	server := newKubeletServer(t)
	k, err := NewKubelet(KubeletConfig{URL: server.URL, CAFile: server.ca, Manifest: manifestFile(t, schedulerPod), Settle: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	server.arrives = "kube-system/kube-scheduler-m1" // it was on its way
	if err := k.Stopped(t.Context()); err == nil {
		t.Error("confirmed at the first look")
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
