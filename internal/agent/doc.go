// Package agent is where the parts meet on a master that are none of the others'
// business: gossip, the watchdog, and the API that tells about this master.
//
//	gossip ──suspects──▶ the balancer, which probes at once (a hint, never more)
//	watchdog ──restarts──▶ the supervisor (systemd, or hactl's own in dev)
//	meeting ──card, configuration, secrets──▶ new machines that hold the token
//	API ◀── hactl status, on this machine and from the other masters
//
// They start in this order and stop in the reverse one, so that nobody asks about
// what is gone, and the watchdog is quiet before gossip says goodbye. When the
// agent dies nothing else does: it carries no traffic and holds no term.
package agent
