package node

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/hactl/hactl/internal/kubebin"
	"github.com/hactl/hactl/test/hosts"
)

// The units that Install leaves disabled.
const (
	Kubelet = "kubelet.service"
	Runtime = "containerd.service"
)

// StaticPods is where kubelet looks for manifests unless Options say otherwise.
const StaticPods = "/etc/kubernetes/manifests"

// Equip adds to a lab's configuration what its hosts need to be nodes: packages,
// system calls, and the kubelet, which is built first if it is not in the cache.
func Equip(ctx context.Context, cfg *hosts.Config) error {
	root, err := kubebin.FindRoot(".")
	if err != nil {
		return err
	}
	set, err := kubebin.Node(root)
	if err != nil {
		return err
	}
	store, err := kubebin.New(kubebin.Config{Stderr: os.Stderr})
	if err != nil {
		return err
	}
	dir, err := store.Find(ctx, set)
	if err != nil {
		return err
	}
	cfg.Packages = append(cfg.Packages, "containerd", "runc", "containernetworking-plugins")
	// What runc asks for and systemd-nspawn does not allow by itself.
	cfg.NspawnArgs = append(cfg.NspawnArgs, "--system-call-filter=@keyring bpf")
	cfg.Binds = append(cfg.Binds, hosts.Bind{Source: filepath.Join(dir, "kubelet"), Target: "/usr/bin/kubelet"})
	return nil
}

// Options say what kind of node a host becomes.
type Options struct {
	// Image is the archive that Image made.
	Image string
	// StaticPods is the folder of manifests; default StaticPods.
	StaticPods string
	// Standalone is a kubelet without an API: it runs static pods alone, and
	// answers on port 10250 to who shows the certificate PairCert.
	Standalone bool
	// Config is further lines of the KubeletConfiguration.
	Config string
}

// Install makes h a node whose kubelet and container runtime are installed,
// disabled and stopped. The kubelet reads /var/lib/kubelet/config.yaml and, unless
// it is to stand alone, /etc/kubernetes/kubelet.conf or bootstrap-kubelet.conf.
func Install(ctx context.Context, h *hosts.Host, o Options) error {
	if o.StaticPods == "" {
		o.StaticPods = StaticPods
	}
	files, err := nodeFiles(o)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := h.WriteFile(ctx, f.name, f.data, fs.FileMode(f.mode)); err != nil {
			return fmt.Errorf("node %s: %w", h.Name(), err)
		}
	}
	const image = "/var/lib/podwork.tar"
	if err := h.CopyTo(ctx, o.Image, image); err != nil {
		return fmt.Errorf("node %s: %w", h.Name(), err)
	}
	// The packages' scripts have enabled containerd.
	script := `set -e
systemctl daemon-reload
systemd-tmpfiles --create /etc/tmpfiles.d/static-pods.conf
systemctl start containerd
ctr --namespace k8s.io images import --snapshotter native "$1"
systemctl disable -q --now containerd kubelet`
	if _, err := h.Exec(ctx, "bash", "-c", script, "install", image); err != nil {
		return fmt.Errorf("node %s: %w", h.Name(), err)
	}
	return nil
}

// nodeFiles are a node's files.
func nodeFiles(o Options) ([]file, error) {
	text := func(name, text string, mode int64) file { return file{name, mode, []byte(text)} }
	config := fmt.Sprintf(kubeletConfig, o.StaticPods) + o.Config
	files := []file{
		text("/etc/containerd/config.toml", fmt.Sprintf(containerdConfig, ImageName), 0o644),
		text("/etc/cni/net.d/10-lab.conflist", cniConfig, 0o644),
		text("/usr/lib/systemd/system/kubelet.service", kubeletUnit, 0o644),
		text("/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", kubeadmDropIn, 0o644),
		text("/etc/systemd/system/kubelet.service.d/lab.conf", labDropIn, 0o644),
		text("/usr/local/sbin/lab-node", labScript, 0o755),
		text("/etc/tmpfiles.d/static-pods.conf", "d "+o.StaticPods+" 0700\n", 0o644), // it may lie below /run
	}
	if o.Standalone {
		cert, key, err := pair()
		if err != nil {
			return nil, err
		}
		config += fmt.Sprintf(standaloneConfig, PairCert, PairKey)
		files = append(files, file{PairCert, 0o644, cert}, file{PairKey, 0o600, key},
			text("/etc/default/kubelet", "KUBELET_KUBECONFIG_ARGS=\n", 0o644))
	}
	return append(files, text("/var/lib/kubelet/config.yaml", config, 0o644)), nil
}

// Pod is the manifest of a static pod that works: it writes to the host's file log
// (see cmd/podwork), whose folder must be there, and goes on for linger, as in "3s",
// after it was told to stop.
func Pod(name, log, linger string) string {
	return fmt.Sprintf(podManifest, name, ImageName, path.Base(log), linger, path.Dir(log))
}

const podManifest = `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  hostNetwork: true # no network of its own is needed, nor waited for
  terminationGracePeriodSeconds: 60
  containers:
  - name: work
    image: %s
    imagePullPolicy: Never
    command: [/podwork, work, /log/%s, %s]
    volumeMounts: [{name: log, mountPath: /log}]
  volumes:
  - {name: log, hostPath: {path: %s, type: Directory}}
`

// kubelet.service and 10-kubeadm.conf are those of Kubernetes' Debian packages.
const (
	kubeletUnit = `[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
`
	kubeadmDropIn = `[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`
)

// labDropIn and labScript give kubelet what it insists on and cannot set itself,
// since /proc/sys is read-only in the lab's hosts, which also have no /dev/kmsg.
const (
	labDropIn = `[Service]
ExecStartPre=/usr/local/sbin/lab-node
RestartSec=1
`
	labScript = `#!/bin/bash
set -eu
mkdir -p /run/lab-node
want() {
	test "$(cat "/proc/sys/$1")" = "$2" && return
	echo "$2" >"/run/lab-node/${1//\//-}"
	mount --bind "/run/lab-node/${1//\//-}" "/proc/sys/$1"
}
want vm/overcommit_memory 1
want vm/panic_on_oom 0
want kernel/panic 10
want kernel/panic_on_oops 1
want kernel/keys/root_maxkeys 1000000
want kernel/keys/root_maxbytes 25000000
test -e /dev/kmsg || ln -s null /dev/kmsg
`
)

// kubeletConfig has, below the folder of manifests, what the lab's hosts need: no
// limits, no firewall rules, nobody evicted because the machine's disk is full.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: %s
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%"}
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
`

// standaloneConfig is for a kubelet that has nobody to ask who may ask it.
const standaloneConfig = `tlsCertFile: %[1]s
tlsPrivateKeyFile: %[2]s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: %[1]s}
authorization: {mode: AlwaysAllow}
`

// containerdConfig: the hosts' disks are overlays, on which overlays cannot be
// stacked, and there is no AppArmor.
const containerdConfig = `version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%s"
  disable_apparmor = true
  disable_cgroup = true
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`

const cniConfig = `{
  "cniVersion": "0.4.0",
  "name": "lab",
  "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]]}}]
}
`
