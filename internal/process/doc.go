// Package process starts programs so that they can be ended for certain: each in
// a process group of its own, with a parent-death signal, followed by pid without
// a race against pid reuse.
//
//	Start ─▶ one goroutine, locked to its thread: fork ─ wait ─ kill the group ─ reap ─▶ Done
//
// What it holds:
//
//   - The parent-death signal works. The kernel ties it to the *thread* that
//     forked, and Go ends idle threads. So the goroutine that forks stays locked
//     to its thread and is the one that waits; the thread lives as long as the
//     child. A parent that dies between fork and prctl is seen by the child
//     (syscall.SysProcAttr.Pdeathsig compares the parent's pid afterwards).
//   - A group's number is never signalled after it may belong to somebody else:
//     the leader stays unreaped until its group got the last SIGKILL.
//   - Other processes are signalled by pidfd, after their start time was compared.
//   - A Fuse ends the calling process by the kernel's hand, whatever state it is in.
//   - Companions, processes beside a program's work, are spared when all that came
//     from the work is killed.
//
// What it does not do: restart, log, count, or follow processes into other pid
// namespaces. A set-uid or file-capability program loses the parent-death signal
// at exec (prctl(2)); processes that left the group are found by Remaining only
// if they kept their environment or their parents live.
package process
