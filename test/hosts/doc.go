// Package hosts is the lab: several systemd hosts on one machine, each with its
// own PID 1, D-Bus, network and disk, on a network that leads nowhere.
//
//	lab, err := hosts.Up(ctx, hosts.Config{Hosts: 3})
//	defer lab.Down(ctx)
//	out, err := lab.Host(1).Exec(ctx, "systemctl", "is-system-running")
//	err = lab.Cut(ctx, "m1", "m2")
//
// The hosts are systemd-nspawn containers made from one Debian tree. They hang
// on a bridge in a network namespace without a route out; the test reaches them
// through Lab.DialContext, as the host "lab" at 10.245.1.1.
//
// What it holds:
//
//   - A lab ends with its owner. However the calling process ends, the lab's guard
//     removes it; a detached one (the command's) stays until Down.
//   - The machine is left as it was: mounts, interfaces, pid numbers and rules are
//     in namespaces of the lab, control groups are in a group of its own, and
//     everything on disk is in Config.Dir and Config.Cache. Installed Debian
//     packages stay, and are named when they are installed.
//   - Up and Lab.Sealed refuse a network with a way out.
//
// What it does not do: limit memory or processor time, lose what was not synced
// to disk at a power cut (the kernel is the machine's, and lives on), or give a
// host a clock of its own.
package hosts
