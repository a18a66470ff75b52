// Package dev runs a whole control plane on one machine: every master is a set
// of processes on a loopback address of its own, with the same programs, files
// and code paths as a real master, under a folder of its own.
//
//	DIR/dev.json      what this folder is: version, masters, addresses
//	DIR/lock          held while a command changes the folder
//	DIR/kubeconfig    admin access through the front door
//	DIR/m1 … mN       --root of each master (etc, var, run)
//	DIR/front-door    --root of one more balancer, as a worker would run it
//
// A child supervisor a master plays systemd's part; it survives the shell that
// started it, and takes its master's processes with it when it dies. Up is
// idempotent: what is missing is started, what runs is left alone.
//
// It does not make a machine survive: all masters share one kernel and disk.
package dev
