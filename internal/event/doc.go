// Package event keeps what was decided and done on a master, for those who ask
// later: one JSON object a line, in a file of bounded size.
//
//	watchdog, bootstrap, membership ──Recorder──▶ /var/lib/hactl/events.jsonl (+ .1) ──Read──▶ hactl events
//
// A crash costs at most the line that was being written: a torn line is skipped
// when reading, and ended before the next one. Several processes may append.
package event
