package pool

import (
	"math"
	"slices"
)

// Load is a backend's share as rebalancing sees it.
type Load struct {
	Active int64
	Weight float64
	Ready  bool
	Local  bool // in the own zone
}

// PreferLocal is loads as LocalFirst sees them: while a local backend is ready the
// others' fair share is nothing. Without it connections would be ended for others'
// sake that come straight back.
func PreferLocal(loads []Load) []Load {
	if !slices.ContainsFunc(loads, func(l Load) bool { return l.Ready && l.Local }) {
		return loads
	}
	out := slices.Clone(loads)
	for i := range out {
		if !out[i].Local {
			out[i].Weight = 0
		}
	}
	return out
}

// tolerance: a backend with up to a tenth above its fair share is left alone.
const tolerance = 0.1

// Surplus returns for each backend how many of its connections should end now
// so that their clients come back to a backend with fewer: at most rate (a
// share of all connections, such as 0.01) in all, rounded up, and none while
// loads are even within a tenth. Connections of backends that are not ready
// neither count nor move.
func Surplus(loads []Load, rate float64) []int {
	move := make([]int, len(loads))
	var all int64
	var weight float64
	for _, l := range loads {
		if l.Ready {
			all += l.Active
			weight += l.Weight
		}
	}
	if all == 0 || weight == 0 || rate <= 0 {
		return move
	}
	budget := math.Ceil(float64(all) * rate)
	var over float64
	surplus := make([]float64, len(loads))
	for i, l := range loads {
		fair := float64(all) * l.Weight / weight
		// A single connection above the share is no unevenness.
		if l.Ready && float64(l.Active) > fair*(1+tolerance) && float64(l.Active) >= fair+1 {
			surplus[i] = float64(l.Active) - fair
			over += surplus[i]
		}
	}
	for i := range loads {
		if surplus[i] == 0 {
			continue
		}
		share := math.Ceil(budget * surplus[i] / over)
		move[i] = int(min(share, math.Floor(surplus[i]), budget))
		budget -= float64(move[i])
	}
	return move
}
