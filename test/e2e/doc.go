// Package e2e holds the end-to-end tests: real Kubernetes components under hactl
// dev, driven only through the commands that a user has. They are compiled with
// -tags e2e and need bin/ as `make build kube` leaves it.
package e2e
