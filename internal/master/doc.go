// Package master says what a master consists of: the files that its parts need
// and the units that run them, rendered from the configuration in one place for
// every way of running them (systemd units, hactl dev).
//
//	config ──▶ Host ──▶ WriteFiles: certificates, kubeconfigs, Kubernetes' own files
//	             └────▶ Units: hactl-etcd, kube-apiserver, hactl-lb, podmaster@…, hactl-agent
//
// It starts nothing, and makes no CA: that is a decision of the whole cluster.
package master
