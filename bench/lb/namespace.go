package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

const (
	congestionFile = "/proc/sys/net/ipv4/tcp_congestion_control"
	inNamespace    = "BENCH_LB_IN_NAMESPACE" // set for the run inside
)

// congestion is the congestion control of all connections here.
func congestion() string {
	data, _ := os.ReadFile(congestionFile)
	return strings.TrimSpace(string(data))
}

// runInNamespace runs this program again, with everything that it starts, in a network
// namespace of its own, whose congestion control can be chosen without touching
// the machine's. It needs root.
func runInNamespace() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		os.Exit(1) // it has said why
	}
	if err != nil {
		return fmt.Errorf("run in a network namespace (needs root): %w", err)
	}
	return nil
}

// enterNamespace prepares the namespace that the process was started in.
func enterNamespace(congestion string) error {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	err := os.WriteFile(congestionFile, []byte(congestion), 0)
	if errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%w: a namespace may use what this lists only: sysctl net.ipv4.tcp_allowed_congestion_control", err)
	}
	return err
}
