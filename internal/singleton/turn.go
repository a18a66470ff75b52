package singleton

import (
	"cmp"
	"crypto/sha256"
	"slices"

	"github.com/hactl/hactl/internal/lease/etcdlock"
)

// turn is how many candidates come before me for the singleton key, which is free.
//
// All candidates count alike from one list: each free singleton goes to the first of
// its queue, who then holds one more. They are gone through in the order in which
// they became free. So one that becomes free meanwhile does not change what was
// decided before, and those who decide on it reckon with that.
func turn(infos []etcdlock.Info, key, me string) int {
	held := map[string]int{}
	var free []etcdlock.Info
	for _, i := range infos {
		switch {
		case i.Holder != "":
			held[i.Holder]++
		case !i.Paused:
			free = append(free, i)
		}
	}
	slices.SortFunc(free, func(a, b etcdlock.Info) int { return cmp.Or(cmp.Compare(a.Rev, b.Rev), cmp.Compare(a.Name, b.Name)) })
	for _, i := range free {
		waiting := queue(i, held)
		if i.Name == key {
			if n := slices.IndexFunc(waiting, func(c etcdlock.Candidate) bool { return c.Name == me }); n >= 0 {
				return n
			}
			return len(waiting) // our own dead term stands there: whoever is listed comes first
		}
		if len(waiting) > 0 {
			held[waiting[0].Name]++
		}
	}
	return 0
}

// queue is the order in which the candidates may take the free singleton i: whom an
// order names; at the end who had it last, who is leaving or stays behind; between
// them by priority, then who holds less, then by lot: the same for all that count,
// and another one for each singleton (rendezvous hashing).
func queue(i etcdlock.Info, held map[string]int) []etcdlock.Candidate {
	waiting, lots := slices.Clone(i.Waiting), map[string]string{}
	for _, c := range waiting {
		lots[c.Name] = lot(i.Name, c.Name)
	}
	slices.SortFunc(waiting, func(a, b etcdlock.Candidate) int {
		return cmp.Or(
			lastIf(a.Name != i.MoveTo, b.Name != i.MoveTo),
			lastIf(a.Name == i.Last, b.Name == i.Last),
			cmp.Compare(b.Priority, a.Priority),
			cmp.Compare(held[a.Name], held[b.Name]),
			cmp.Compare(lots[a.Name], lots[b.Name]),
		)
	})
	return waiting
}

// lastIf compares so that who it is true for comes last.
func lastIf(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// lot is drawn alike by everybody.
func lot(singleton, candidate string) string {
	sum := sha256.Sum256([]byte(singleton + "\x00" + candidate))
	return string(sum[:])
}
