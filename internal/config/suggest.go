package config

import (
	"sort"
	"strings"
)

// nearest returns the candidate that a misspelt word was probably meant to be,
// or "" when none is near. Upper and lower case, "-" and "_" do not count.
func nearest(word string, candidates []string) string {
	plain := func(s string) string {
		return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
	}
	w := plain(word)
	if len(w) > 64 {
		return ""
	}
	best, bestDist := "", 3 // at most two slips
	sorted := append([]string(nil), candidates...)
	sort.Strings(sorted)
	for _, c := range sorted {
		p := plain(c)
		d := editDistance(w, p)
		if strings.TrimSuffix(w, "s") == strings.TrimSuffix(p, "s") {
			d = 0
		}
		// Two slips in a word of four letters make another word.
		if d < bestDist && d*3 <= len(p) {
			best, bestDist = c, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment).
func editDistance(a, b string) int {
	prev2, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return prev[len(b)]
}
