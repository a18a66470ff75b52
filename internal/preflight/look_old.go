package preflight

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
	"github.com/hactl/hactl/internal/layout"
)

// controlPlane are the programs of which a master has one, by their files; those
// of distributions that have all in one too.
var controlPlane = []string{
	"etcd", "kube-apiserver", config.KubeScheduler, config.KubeControllerManager,
	"k3s", "k3s-server", "kubelite", "k0s", "rke2",
}

// staticPods are the manifests that kubeadm writes for a control plane.
var staticPods = []string{"etcd", "kube-apiserver", config.KubeScheduler, config.KubeControllerManager}

// foreignEtcd is where kubeadm, Debian and etcd's own guides keep etcd's data.
const foreignEtcd = "/var/lib/etcd"

func lookOld(l layout.Layout) Old {
	var o Old
	for _, name := range staticPods {
		path := filepath.Join(l.Kubernetes(), "manifests", name+".yaml")
		if _, err := os.Stat(path); err == nil {
			o.Manifests = append(o.Manifests, path)
		}
	}
	for _, pid := range pids() {
		if p := readProcess(pid); slices.Contains(controlPlane, p.Name) && !ownUnit(p.Unit) {
			o.Processes = append(o.Processes, p)
		}
	}
	if _, err := os.Stat(filepath.Join(l.Under(foreignEtcd), "member")); err == nil {
		o.EtcdData = l.Under(foreignEtcd)
	}
	o.lookCA(filepath.Join(l.PKI(), "ca.crt"))
	o.IntentFile = filepath.Join(l.State(), "etcd-intent.json")
	switch in, err := etcdcluster.ReadIntent(l.State()); {
	case err == nil:
		o.Intent = &in
	case !errors.Is(err, fs.ErrNotExist):
		o.IntentErr = err
	}
	return o
}

// lookCA reads whose the CA is that is there already.
func (o *Old) lookCA(file string) {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		o.CAErr = err
		return
	}
	block, _ := pem.Decode(text)
	if block == nil {
		o.CAErr = fmt.Errorf("%s: no PEM", file)
		return
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		o.CAErr = fmt.Errorf("%s: %w", file, err)
		return
	}
	o.CAFile, o.CAName, o.CAOrg = file, cert.Subject.CommonName, strings.Join(cert.Subject.Organization, ", ")
}

// lookOpenFiles finds how many files a unit can open: what PID 1 may give it.
func lookOpenFiles() (uint64, error) {
	status, err := os.ReadFile("/proc/1/status")
	if err != nil {
		return 0, err
	}
	if hasCapability(status, unix.CAP_SYS_RESOURCE) {
		text, err := os.ReadFile("/proc/sys/fs/nr_open")
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	}
	text, err := os.ReadFile("/proc/1/limits")
	if err != nil {
		return 0, err
	}
	return hardOpenFiles(text)
}

// hasCapability reads CapEff of /proc/PID/status.
func hasCapability(status []byte, capability int) bool {
	for line := range bytes.Lines(status) {
		if hex, ok := bytes.CutPrefix(line, []byte("CapEff:")); ok {
			set, err := strconv.ParseUint(string(bytes.TrimSpace(hex)), 16, 64)
			return err == nil && set&(1<<capability) != 0
		}
	}
	return false
}

// hardOpenFiles reads "Max open files  SOFT  HARD  files" of /proc/PID/limits.
func hardOpenFiles(limits []byte) (uint64, error) {
	for line := range bytes.Lines(limits) {
		if rest, ok := bytes.CutPrefix(line, []byte("Max open files")); ok {
			f := bytes.Fields(rest)
			if len(f) < 2 {
				break
			}
			if string(f[1]) == "unlimited" {
				return math.MaxUint64, nil
			}
			return strconv.ParseUint(string(f[1]), 10, 64)
		}
	}
	return 0, errors.New("/proc/1/limits does not tell the limit of open files")
}
