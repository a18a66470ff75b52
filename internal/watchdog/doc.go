// Package watchdog restarts processes that hang. A process that ends is its
// supervisor's business; the watchdog looks at those that are there and do not
// work: they answer no probe, or are stopped (state T).
//
//	probe ──┐
//	/proc ──┼─▶ Observation ─▶ History ─▶ Decide(policy, history, now) ─▶ Action{None|Hold|Restart, Reason}
//	deps  ──┘                                                               │
//	                             permit (never two masters at once) ◀───────┘
//	                                │
//	                                └─▶ forced restart, its result awaited
//
// What it holds:
//
//   - A probe that hangs has failed. One answer neither kills nor heals.
//   - A process whose dependency is sick is not restarted for not answering:
//     that would cost its warm state and help nobody.
//   - Restarts of a unit have a back-off and a budget; both outlive the watchdog
//     itself (Config.StateFile). At most one unit of this host is being restarted
//     at a time, and each restart asks Config.Permit first.
//   - Failures seen by a watchdog that was itself not running do not count.
//   - Each decision is a value with its reason; it is logged when it changes,
//     and counted.
//
// What it does not do: start what its supervisor stopped on purpose, decide over
// traffic (that is the balancer's), change etcd's membership, reboot hosts.
//
// Decide and History.Observe are pure: no clock, no goroutine, no I/O. DESIGN.md
// has the rules, and the mutants that show that each of them is tested.
package watchdog
