// Package preflight says whether this machine can become, or stay, a master:
// every fault at once, each with its cure, before anything is changed.
//
//	Gather(ctx, Config) ─▶ Facts ─▶ Evaluate ─▶ []Finding ─▶ NewReport(facts, ignore) ─▶ table, JSON, exit code
//
// Gather looks (files, sockets, D-Bus, the disk's speed) and judges nothing;
// Evaluate judges and looks at nothing. What could not be looked at is a fact
// too, and becomes a warning instead of silence.
//
// What holds:
//
//   - Nothing is changed: the disk's measure writes an unnamed file, ports are
//     bound without listening, the address is probed as a new host would.
//   - It ends: every look has its own deadline.
//   - What belongs to this installation is not in its own way, so that it can
//     run on a master that serves.
//
// What it does not do: reach the other masters. What is known of them comes in
// as Peers.
package preflight
