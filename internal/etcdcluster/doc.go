// Package etcdcluster runs one etcd member of the control plane in this process,
// and changes the membership of the cluster without putting its quorum at risk.
//
//	intent ──▶ decideStart ──▶ embed.Etcd ──▶ READY=1, role, WATCHDOG=1
//	   ▲           ▲ data folder     │
//	   └───────────┴──── record ◀────┘        what this machine is, kept outside the data
//
//	Observe ──▶ []MemberStatus ──▶ Plan / Guard ──▶ one Step at a time
//
// What holds:
//
//   - A restart never changes what a machine is. Founding and joining need an
//     Intent, written before anything is done and used up by it. Data, where
//     there are any, alone say what the member is.
//   - A machine whose data are lost never votes under its old id: it refuses to
//     start (exit code 3) until it is made a new member, which begins as a
//     learner.
//   - One change of the membership at a time, and none after which, or during
//     which, the members that are well are fewer than a quorum.
//   - READY=1 means that clients are served; WATCHDOG=1 that a read was answered
//     just now. A member without a quorum is waiting, not ill.
//   - Stopping is bounded: hand over, end streams, close, and if that hangs the
//     process ends without it. What was answered is on the disk.
//
// What it does not do: it schedules no backups, restores nothing, and repairs
// no alarm by itself. etcd ends its process by itself when its disk fails (after
// logging why), so nothing that must live on belongs into the same process.
package etcdcluster
