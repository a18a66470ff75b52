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
// What it does not do: keep a command from working that was frozen together with
// podmaster and the guard (a host that slept) in the moment between the thaw and
// the guard's first instruction. The gate does that; docs/guarantees.md.
package singleton
