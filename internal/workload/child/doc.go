// Package child is the supervisor that hactl brings itself: it gives a set of
// units the life that systemd gives them on a real master, without root and
// without systemd. One supervisor process runs one master of `hactl dev`.
//
//	        control socket (HTTP, 0600)          notify socket (sd_notify)
//	                │                                   ▲
//	Client ──▶ Supervisor ──▶ unit: order ▶ start ▶ active ▶ end ▶ pause ▶ start …
//	                            │
//	                            └─▶ process group of its own, dies with the supervisor
//
// What it holds:
//
//   - A unit that should run is started again after every end, first after 100 ms,
//     then later and later up to 5 s; there is no start limit to be stranded in.
//   - Only the main process of a unit can speak for it on the notify socket
//     (systemd's NotifyAccess=main): the kernel's credentials are compared with
//     the pid. A frozen main process therefore misses its watchdog whatever its
//     children send.
//   - A missed watchdog, a stop that takes too long and a forced restart end in
//     SIGKILL for the whole tree of processes; the next start waits for its end.
//   - When the supervisor dies, by SIGKILL too, its main processes die with it
//     (parent-death signal). So do those of podmaster, which does the same.
//   - Stopping everything is bounded: units that must stop before others first,
//     the rest at the same time, each within its StopTimeout plus 10 s.
//
// What it does not do: limits on memory or CPU, sandboxing, socket activation,
// following a process that changes its main pid (MAINPID=), sockets kept for a
// restarted process (FDSTORE=).
package child
