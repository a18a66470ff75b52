// Package systemd is the life of hactl's units on a real master: it renders
// workload.Unit as hardened systemd units, and steers them.
//
//	workload.Unit + Sandbox ──Render──▶ /etc/systemd/system/NAME.service
//	workload.Manager        ──Manager─▶ D-Bus ─▶ systemd: jobs, whose results are awaited
//
// What the rendered units hold:
//
//   - Restart=always after 100 ms without a start limit: no unit is stranded. From
//     systemd 254 on the pauses grow to 5 s.
//   - Ready only when it serves (Type=notify), and only the main process may say so.
//   - The watchdog is a dead man's switch: WatchdogSignal=SIGKILL, sent to the whole
//     control group, so that a frozen podmaster takes its child along.
//   - Nothing binds units together but their order of starting: each survives the
//     restart of every other.
//   - No capabilities, a read-only file system but for the named folders, no other
//     processes to see: an exposure of 2.0 or less by `systemd-analyze security`.
//
// What it does not do: install or enable the units. After= orders only what starts
// in one transaction: start them together, by a target.
package systemd
