// Package probe asks backends how they are.
//
// A Prober asks one backend again and again. Probes of different backends run in
// parallel, and so do those of one: a probe starts each interval whether or not
// the one before has been answered. When a probe's time is over, younger ones
// that have been silent for at least half of it count as silent too, so that a
// frozen backend is known after interval + timeout and not after twice that.
//
// A Prober that was itself held up (its own timer came late) throws away what it
// had in flight: its clock says nothing about the backend.
package probe
