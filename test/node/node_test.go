package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What the index names leads to the program, by digests that are right.
func TestImage(t *testing.T) {
	var b bytes.Buffer
	program := []byte("a program")
	if err := writeImage(&b, "hactl.test/x:1", "x", program); err != nil {
		t.Fatal(err)
	}
	files := untar(t, b.Bytes())
	blob := func(d descriptor, into any) []byte {
		t.Helper()
		data, ok := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if sum := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); !ok || sum != d.Digest || len(data) != d.Size {
			t.Fatalf("%+v: there %v, %d bytes, %s", d, ok, len(data), sum)
		}
		if into != nil {
			if err := json.Unmarshal(data, into); err != nil {
				t.Fatal(err)
			}
		}
		return data
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%v: %s", err, files["index.json"])
	}
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != "hactl.test/x:1" {
		t.Errorf("it is called %q", got)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	blob(index.Manifests[0], &manifest)
	var config struct {
		Config struct{ Entrypoint, Cmd []string }
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	blob(manifest.Config, &config)
	if fmt.Sprint(config.Config.Entrypoint, config.Config.Cmd) != "[/x] [pause]" || len(manifest.Layers) != 1 || config.Rootfs.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Errorf("config %+v, layers %+v", config, manifest.Layers)
	}
	if got := untar(t, blob(manifest.Layers[0], nil))["x"]; !bytes.Equal(got, program) {
		t.Errorf("the program is %q", got)
	}
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFilesAreWellFormed(t *testing.T) {
	files, err := nodeFiles(Options{StaticPods: "/run/pods", Standalone: true, Config: "maxPods: 5\n"})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		all[f.name] = f.data
	}
	var config struct {
		StaticPodPath string            `yaml:"staticPodPath"`
		EvictionHard  map[string]string `yaml:"evictionHard"`
		MaxPods       int               `yaml:"maxPods"`
		TLSCertFile   string            `yaml:"tlsCertFile"`
	}
	if err := yaml.Unmarshal(all["/var/lib/kubelet/config.yaml"], &config); err != nil {
		t.Fatal(err)
	}
	if config.StaticPodPath != "/run/pods" || config.MaxPods != 5 || config.TLSCertFile != PairCert || config.EvictionHard["nodefs.available"] != "0%" {
		t.Errorf("%+v", config)
	}
	if _, err := tls.X509KeyPair(all[PairCert], all[PairKey]); err != nil {
		t.Error(err)
	}
	if !json.Valid(all["/etc/cni/net.d/10-lab.conflist"]) {
		t.Error("the network's configuration is no JSON")
	}
	var pod struct {
		Spec struct {
			Containers []struct{ Command []string }
			Volumes    []struct {
				HostPath struct{ Path string } `yaml:"hostPath"`
			}
		}
	}
	if err := yaml.Unmarshal([]byte(Pod("work", "/shared/m1", "3s")), &pod); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(pod.Spec.Containers[0].Command, pod.Spec.Volumes[0].HostPath.Path); got != "[/podwork work /log/m1 3s]/shared" {
		t.Error(got)
	}
}
