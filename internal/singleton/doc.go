// Package singleton runs a program that may run only once in a cluster: it joins
// a lease's terms (internal/lease) with something to start and stop.
//
//	lease.Elector ──term──▶ Child ──▶ guard process ──▶ the command and all that it forks
//	      │                   │           ▲ deadline, over a pipe
//	      └── sd_notify       └── health probe, crash budget
//
// The guard is this program once more, as a small process between podmaster and
// the command. It is the dead man's switch: it kills the command and everything
// that came from it at the deadline that the last renewal gave, or at once when
// podmaster dies. It is the subreaper of what daemonizes. podmaster in turn is the
// guard's, and the command dies with the guard.
//
// Unit and Manifest do the same for a systemd unit and for a static pod's manifest.
// Their guard is in a unit of its own (docs/adr/0013), a manifest's where podmaster is
// one of systemd's. That one only takes the file away, and the pod's stop is confirmed
// by its port or by kubelet.
//
// Gate forwards TCP while the term stands, from a process of its own. The kernel
// kills both it and a command's guard shortly before the term's deadline, in whatever
// state they are (process.Fuse, docs/adr/0014).
//
// What it does not do: stop in time what daemonized and was frozen together with
// podmaster and the guard. A program that goes through the gate, or whose receiver
// checks tokens, has no effect then; docs/guarantees.md.
package singleton
