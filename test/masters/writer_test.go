//go:build lab

package masters

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/pki"
	"github.com/hactl/hactl/internal/testwait"
)

// writer creates ConfigMaps through every front door in turn, without a pause, and
// remembers those that were acknowledged.
type writer struct {
	clients []*http.Client
	doors   []string
	stop    context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex
	acked  []string
	failed int
	faults []string // of those that failed, the first few
}

// write begins to write; the writer is ended by lost.
func (m *masters) writer(t *testing.T, names ...string) *writer {
	t.Helper()
	text, err := m.Host(1).ReadFile(t.Context(), "/etc/kubernetes/admin.conf")
	if err != nil {
		t.Fatal(err)
	}
	k, err := pki.ParseKubeconfig(text)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(k.Cert, k.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.CA)
	w := &writer{done: make(chan struct{})}
	for _, n := range names {
		h, err := m.Named(n)
		if err != nil {
			t.Fatal(err)
		}
		w.doors = append(w.doors, fmt.Sprintf("https://%s:6443", h.Address()))
		w.clients = append(w.clients, &http.Client{
			Timeout: 5 * time.Second,
			Transport: &http.Transport{
				DialContext:     m.DialContext,
				TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, ServerName: pki.APIServerName, MinVersion: tls.VersionTLS13},
			},
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	go w.run(ctx)
	t.Cleanup(func() { stop(); <-w.done })
	return w
}

func (w *writer) run(ctx context.Context) {
	defer close(w.done)
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("written-%d", i)
		err := w.create(ctx, i%len(w.doors), name)
		w.mu.Lock()
		if err == nil {
			w.acked = append(w.acked, name)
		} else {
			if w.failed++; len(w.faults) < 8 && ctx.Err() == nil {
				w.faults = append(w.faults, fmt.Sprintf("%s through %s: %v", time.Now().Format(time.TimeOnly), w.doors[i%len(w.doors)], err))
			}
		}
		w.mu.Unlock()
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond): // a refused connection costs nothing, and would be tried in a spin
			}
		}
	}
}

func (w *writer) create(ctx context.Context, door int, name string) error {
	body, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]string{"name": name}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.doors[door]+"/api/v1/namespaces/default/configmaps", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	_, err = w.do(door, req, http.StatusCreated)
	return err
}

func (w *writer) do(door int, req *http.Request, want int) ([]byte, error) {
	resp, err := w.clients[door].Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s: %.200s", resp.Status, data)
	}
	return data, err
}

// progress waits until more was acknowledged.
func (w *writer) progress(t *testing.T, what string) {
	t.Helper()
	w.mu.Lock()
	before := len(w.acked)
	w.mu.Unlock()
	testwait.For(t, "writes "+what, patience, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.acked) < before+5 {
			return fmt.Errorf("%d were acknowledged since, %d failed in all", len(w.acked)-before, w.failed)
		}
		return nil
	})
}

// lost ends the writer, and the test if anything that was acknowledged is not
// there.
func (w *writer) lost(t *testing.T) {
	t.Helper()
	w.stop()
	<-w.done
	if len(w.acked) == 0 {
		t.Fatal("nothing was written")
	}
	var have []string
	testwait.For(t, "the list of what was written", patience, func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.doors[0]+"/api/v1/namespaces/default/configmaps", nil)
		if err != nil {
			return err
		}
		data, err := w.do(0, req, http.StatusOK)
		if err != nil {
			return err
		}
		var list struct {
			Items []struct{ Metadata struct{ Name string } }
		}
		if err := json.Unmarshal(data, &list); err != nil {
			return err
		}
		have = nil
		for _, i := range list.Items {
			have = append(have, i.Metadata.Name)
		}
		return nil
	})
	slices.Sort(have)
	for _, name := range w.acked {
		if _, there := slices.BinarySearch(have, name); !there {
			t.Errorf("%s was acknowledged, and is lost", name)
		}
	}
	t.Logf("measure: %d writes acknowledged, %d failed, none lost; of the failed: %s", len(w.acked), w.failed, strings.Join(w.faults, "; "))
}
