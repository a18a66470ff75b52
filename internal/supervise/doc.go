// Package supervise holds the parts of one process together: a Group starts
// them in order and stops them in reverse, and Restarting keeps one of them
// going.
//
//	start   a ──▶ b ──▶ c        each waits until the one before it is ready
//	stop    a ◀── b ◀── c        each gets its own time; who overstays is named
//
// A part is a function run(ctx) error that works in the caller's goroutine and
// returns when ctx ends. Starting other processes is not this package's
// business: see workload/child.
package supervise
