package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// ImageName is the image that Install puts into containerd: podwork, which is
// every pod's sandbox, too. Pods need imagePullPolicy: Never.
const ImageName = "hactl.test/podwork:1"

// Image builds podwork and makes an OCI archive of it in dir. It returns the
// archive's file.
func Image(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "podwork")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", program, "github.com/hactl/hactl/test/node/cmd/podwork")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // nothing else is in the image
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build podwork: %w\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "podwork.tar")
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	return file, errors.Join(writeImage(f, ImageName, "podwork", data), f.Close())
}

// descriptor names a blob, as in the OCI image format.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// writeImage writes an image of one program, /NAME, as an OCI image layout. It
// is run as `/NAME pause` unless the pod says otherwise.
func writeImage(w io.Writer, ref, name string, program []byte) error {
	layer, err := archive([]file{{name, 0o755, program}})
	if err != nil {
		return err
	}
	layout := []file{{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
	blob := func(mediaType string, data []byte) descriptor {
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		layout = append(layout, file{"blobs/sha256/" + sum, 0o644, data})
		return descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(data)}
	}
	blobOf := func(mediaType string, v any) (descriptor, error) {
		data, err := json.Marshal(v)
		return blob(mediaType, data), err
	}
	type object = map[string]any
	content := blob("application/vnd.oci.image.layer.v1.tar", layer)
	config, err := blobOf("application/vnd.oci.image.config.v1+json", object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Entrypoint": []string{"/" + name}, "Cmd": []string{"pause"}, "WorkingDir": "/"},
		"rootfs": object{"type": "layers", "diff_ids": []string{content.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := blobOf("application/vnd.oci.image.manifest.v1+json", object{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []descriptor{content},
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": ref}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err != nil {
		return err
	}
	data, err := archive(append(layout, file{"index.json", 0o644, index}))
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

type file struct {
	name string
	mode int64
	data []byte
}

func archive(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
