package singleton

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// KubeletConfig says how to ask the host's kubelet whether a static pod has stopped.
type KubeletConfig struct {
	URL      string // https://127.0.0.1:10250, or the read-only http://127.0.0.1:10255
	CAFile   string // that kubelet's certificate is verified with
	CertFile string // client certificate, which may get nodes/proxy
	KeyFile  string
	Insecure bool          // do not verify https; only for loopback addresses
	Manifest string        // file with the pod, for its name and namespace
	Timeout  time.Duration // of one question; default 1s
	// Settle is longer than kubelet answers from memory; see Stopped. Default 3.5s:
	// kubelet's runtime cache is up to 3 s old.
	Settle time.Duration
}

// Kubelet asks a kubelet.
type Kubelet struct {
	cfg             KubeletConfig
	name, namespace string
	client          *http.Client
}

// NewKubelet checks cfg and reads the manifest.
func NewKubelet(cfg KubeletConfig) (*Kubelet, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("kubelet URL %q: want https://ADDRESS:10250", cfg.URL)
	}
	tlsConfig, err := clientTLS(u, "kubelet", cfg.CAFile, cfg.Insecure)
	if err != nil {
		return nil, err
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("kubelet: give both the certificate and its key, or neither")
	}
	if cfg.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
			return nil, fmt.Errorf("kubelet: %w", err)
		}
		// Read anew each time: it is renewed while we run.
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
			return &pair, err
		}
	}
	setDefault(&cfg.Timeout, time.Second)
	setDefault(&cfg.Settle, 3500*time.Millisecond)
	k := &Kubelet{cfg: cfg, client: &http.Client{Timeout: cfg.Timeout, Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true, Proxy: nil}}}
	k.name, k.namespace, err = podIn(cfg.Manifest)
	return k, err
}

// podIn reads the name and namespace of the pod in a manifest.
func podIn(file string) (name, namespace string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", "", fmt.Errorf("manifest: %w", err)
	}
	var pod struct {
		Kind     string `yaml:"kind"`
		Metadata struct {
			Name      string `yaml:"name"`
			Namespace string `yaml:"namespace"`
		} `yaml:"metadata"`
	}
	if err := yaml.Unmarshal(data, &pod); err != nil {
		return "", "", fmt.Errorf("manifest %s: %w", file, err)
	}
	if pod.Kind != "Pod" || pod.Metadata.Name == "" {
		return "", "", fmt.Errorf("manifest %s: no Pod with a name, which kubelet could be asked about", file)
	}
	if pod.Metadata.Namespace == "" {
		pod.Metadata.Namespace = "default"
	}
	return pod.Metadata.Name, pod.Metadata.Namespace, nil
}

// Stopped returns nil when kubelet neither wants the pod any more nor runs a
// container of it. It waits for the end of one that kubelet does not want any more,
// until ctx ends.
//
// /pods alone does not say that: kubelet strikes a static pod off that list as soon
// as its manifest is gone, and only then begins to stop the containers. /runningpods/
// is what the container runtime had at most Settle ago; kubelet offers it unless its
// debugging handlers are off. So a list without the pod counts only if it was made
// after the pod was struck off: when it comes after one with the pod, or Settle
// later. Else a pod whose manifest came and went would be taken for stopped while it
// runs, by a list from before its start.
func (k *Kubelet) Stopped(ctx context.Context) error {
	running, err := k.look(ctx)
	if err != nil {
		return err
	}
	if running == "" {
		if !sleep(ctx, k.cfg.Settle) {
			return ctx.Err()
		}
		if running, err = k.look(ctx); err != nil {
			return err
		}
	}
	for running != "" {
		still := fmt.Errorf("kubelet /runningpods/ still has %s", running)
		if !sleep(ctx, 100*time.Millisecond) {
			return still
		}
		running, err = k.look(ctx)
		switch {
		case ctx.Err() != nil:
			return still
		case err != nil:
			return err
		}
	}
	return nil
}

// look returns the pod's name in the list of those that run, or empty. It errs
// while kubelet wants the pod, or does not say.
func (k *Kubelet) look(ctx context.Context) (running string, err error) {
	wanted, err := k.listed(ctx, "/pods")
	if err != nil {
		return "", fmt.Errorf("kubelet /pods: %w", err)
	}
	if wanted != "" {
		return "", fmt.Errorf("kubelet /pods still has %s", wanted)
	}
	if running, err = k.listed(ctx, "/runningpods/"); err != nil {
		return "", fmt.Errorf("kubelet /runningpods/: %w", err)
	}
	return running, nil
}

// maxPods bounds what is read of an answer.
const maxPods = 64 << 20

// listed is the pod's name in one of kubelet's lists, or empty. A static pod's name
// has the node's name added; whatever else begins alike counts as well.
func (k *Kubelet) listed(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(k.cfg.URL, "/")+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPods+1))
	switch {
	case err != nil:
		return "", err
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s: %.200s", resp.Status, body)
	case len(body) > maxPods:
		return "", errors.New("the answer is too long")
	}
	var list struct {
		Kind  string
		Items []struct {
			Metadata struct{ Name, Namespace string }
		}
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return "", err
	}
	if list.Kind != "PodList" {
		return "", fmt.Errorf("the answer is no PodList but %q", list.Kind)
	}
	for _, pod := range list.Items {
		m := pod.Metadata
		if m.Namespace == k.namespace && (m.Name == k.name || strings.HasPrefix(m.Name, k.name+"-")) {
			return m.Namespace + "/" + m.Name, nil
		}
	}
	return "", nil
}

// both joins confirmations: each must be given.
func both(stopped ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, s := range stopped {
			if err := s(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// Confirm says how a manifest's pod is seen to have stopped: by its health port, by
// kubelet, or by both; nil when neither is given.
func Confirm(h *Health, k *Kubelet) func(context.Context) error {
	switch {
	case h != nil && k != nil:
		return both(h.Stopped, k.Stopped)
	case h != nil:
		return h.Stopped
	case k != nil:
		return k.Stopped
	default:
		return nil
	}
}

// clientTLS is for https to u; Insecure is for loopback addresses only.
func clientTLS(u *url.URL, what, caFile string, insecure bool) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if insecure {
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("%s URL %q: not verifying is for loopback addresses only; give a CA file", what, u)
		}
		cfg.InsecureSkipVerify = true //nolint:gosec // loopback only, and nothing secret is sent
	}
	if caFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("%s CA: %w", what, err)
	}
	cfg.RootCAs = newPool(pem)
	if cfg.RootCAs == nil {
		return nil, fmt.Errorf("%s CA: %s: no certificate in it", what, caFile)
	}
	return cfg, nil
}
