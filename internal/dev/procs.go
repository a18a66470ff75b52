package dev

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/workload/child"
)

// shortNames are what people type for a unit or a program.
var shortNames = map[string]string{
	"etcd":       "hactl-etcd",
	"lb":         "hactl-lb",
	"agent":      "hactl-agent",
	"apiserver":  "kube-apiserver",
	"scheduler":  "kube-scheduler",
	"kcm":        "kube-controller-manager",
	"controller": "kube-controller-manager",
}

// unitName turns what a user typed into a unit's or a process' name.
func unitName(typed string) string {
	typed = strings.TrimSuffix(typed, ".service")
	if full, ok := shortNames[typed]; ok {
		return full
	}
	return typed
}

// Signal sends sig to a process of a host: a unit's main process ("etcd",
// "podmaster@kube-scheduler"), or a program under podmaster ("kube-scheduler").
// It returns the process ids.
func (f *Folder) Signal(ctx context.Context, host, proc string, sig syscall.Signal) ([]int, error) {
	if err := f.host(host); err != nil {
		return nil, err
	}
	pids, err := f.client(host).SignalProcess(ctx, unitName(proc), sig)
	switch {
	case errors.Is(err, child.ErrUnreachable):
		return nil, exitcode.Errorf(exitcode.Failed, "%s is not running", host).WithHint("hactl dev start %s", host)
	case err != nil:
		return nil, exitcode.Errorf(exitcode.Failed, "%s: %w", host, err).WithHint("hactl dev status")
	}
	return pids, nil
}
