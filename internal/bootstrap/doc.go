// Package bootstrap turns a machine into a master: the same command on every one
// of them, begun again wherever it was cut.
//
//	configuration ─▶ preflight ─▶ meeting ─▶ secrets ─▶ files, units ─▶ etcd's intent ─▶ votes ─▶ serves
//	                                 │
//	       Decide(what I am, whom I see) ─▶ make | fetch | found | join | wait, and why
//
// What holds:
//
//   - At most one machine ever founds the cluster, and only when all that the
//     configuration names have met and none of them knows of a cluster. Everybody
//     else joins as a learner. A machine that lost its data cannot found a second
//     one: it waits for the others.
//   - Each step is journaled before it acts and after, and may be taken again.
//     Killed at any point, the same command goes on.
//   - Leave asks before each step whether the others stay a quorum.
//
// Decide and its kin are pure. What it does not do: run the parts (systemd does),
// render what they need (package master), change members (etcdcluster).
package bootstrap
