// Package node makes hosts of the lab (test/hosts) Kubernetes nodes: a real
// kubelet, Debian's containerd and runc, and one image that is made here.
//
//	cfg := hosts.Config{Hosts: 2}
//	err := node.Equip(ctx, &cfg)          // before the lab is up
//	image, err := node.Image(ctx, dir)    // podwork, as an OCI archive
//	err = node.Install(ctx, lab.Host(1), node.Options{Image: image})
//
// containerd.service is Debian's, kubelet.service that of Kubernetes' packages;
// Install leaves both disabled and stopped, as a machine has them on which nobody
// has said kubeadm init. What the lab cannot give, limits above all, is switched
// off in their configurations, and nothing else.
//
// The kubelet is not built by `make kube`: make it with
// `go run ./internal/kubebin/cmd/kubebin node`.
package node
