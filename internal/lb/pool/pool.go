package pool

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Algorithm is a way to choose among ready backends.
type Algorithm string

// The algorithms.
const (
	LeastConn  Algorithm = "least-conn"  // fewest connections for its weight
	RoundRobin Algorithm = "round-robin" // in turn, by weight
	Random2    Algorithm = "random2"     // the better of two random ones
	LocalFirst Algorithm = "local-first" // least-conn in the own zone, others when it has none
)

// ParseAlgorithm checks a name; the empty one is least-conn.
func ParseAlgorithm(s string) (Algorithm, error) {
	switch a := Algorithm(s); a {
	case "":
		return LeastConn, nil
	case LeastConn, RoundRobin, Random2, LocalFirst:
		return a, nil
	}
	return "", fmt.Errorf("algorithm %q: want least-conn, round-robin, random2 or local-first", s)
}

// Handle is what a pool holds: something comparable that knows how many
// connections it has now.
type Handle interface {
	comparable
	Active() int64
}

// Entry is a backend with what matters for choosing it.
type Entry[T Handle] struct {
	Handle T
	Weight float64 // > 0; share of connections. Smaller while a backend starts slowly
	Ready  bool
	Local  bool // in the own zone
	Off    bool // drained by an operator: not even used when nothing is ready

	turn *turn // set by Pool.Set
}

// turn is a backend's place in the smooth weighted round robin that decides among
// equals; it stays while the backend is in the pool.
type turn struct {
	current atomic.Int64
	seen    uint64 // the Set that had it last
}

// turnScale makes whole numbers of weights, those of a slow start too.
const turnScale = 1024

func (e *Entry[T]) share() int64 { return max(1, int64(e.Weight*turnScale)) }

// Pool holds the backends. Set may be called while Pick runs.
type Pool[T Handle] struct {
	algorithm Algorithm
	next      atomic.Uint64
	now       atomic.Pointer[snapshot[T]]

	mu    sync.Mutex // of Set
	sets  uint64
	turns map[T]*turn
}

type snapshot[T Handle] struct {
	ready, local, rest []Entry[T]
	turns              []T // round-robin's order, by weight
}

// New makes an empty pool.
func New[T Handle](a Algorithm) *Pool[T] {
	p := &Pool[T]{algorithm: a, turns: map[T]*turn{}}
	p.now.Store(&snapshot[T]{})
	return p
}

// Set replaces what Pick chooses from.
func (p *Pool[T]) Set(entries []Entry[T]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sets++
	s := &snapshot[T]{}
	for _, e := range entries {
		if e.turn = p.turns[e.Handle]; e.turn == nil {
			e.turn = &turn{}
			p.turns[e.Handle] = e.turn
		}
		e.turn.seen = p.sets
		switch {
		case e.Off:
		case e.Ready:
			s.ready = append(s.ready, e)
			if e.Local {
				s.local = append(s.local, e)
			}
		default:
			s.rest = append(s.rest, e)
		}
	}
	if p.algorithm == RoundRobin {
		s.turns = turns(s.ready)
	}
	maps.DeleteFunc(p.turns, func(_ T, t *turn) bool { return t.seen != p.sets })
	p.now.Store(s)
}

// Pick returns the backend for a new connection, never one of tried: a ready
// one, else any that no operator has drained, since a probe may be wrong and a
// try costs little. random is any random number. ok is false when none is left.
func (p *Pool[T]) Pick(tried []T, random uint64) (t T, ok bool) {
	s := p.now.Load()
	switch p.algorithm {
	case RoundRobin:
		t, ok = p.inTurn(s, tried)
	case Random2:
		t, ok = betterOfTwo(s.ready, tried, random)
	case LocalFirst:
		if t, ok = least(s.local, tried, random); ok {
			return t, ok
		}
	}
	if !ok {
		t, ok = least(s.ready, tried, random)
	}
	if !ok {
		t, ok = least(s.rest, tried, random)
	}
	return t, ok
}

// Competitor returns a backend for a connection whose backend is slow: only a
// ready one is worth giving the slow one up for, unless none is ready at all.
// See Pick.
func (p *Pool[T]) Competitor(tried []T, random uint64) (t T, ok bool) {
	s := p.now.Load()
	if len(s.ready) == 0 {
		return least(s.rest, tried, random)
	}
	return least(s.ready, tried, random)
}

// least returns the entry with the fewest connections for its weight. Among equals
// the turn decides, or, where they weigh the same, random, which says where to begin.
func least[T Handle](es []Entry[T], tried []T, random uint64) (best T, ok bool) {
	if len(es) == 0 {
		return best, false
	}
	var (
		cost, weight float64
		uneven       bool // equals of several weights
		start        = int(random % uint64(len(es)))
	)
	for i := range es {
		e := &es[(start+i)%len(es)]
		if len(tried) > 0 && slices.Contains(tried, e.Handle) {
			continue
		}
		switch c := e.cost(); {
		case !ok || c < cost:
			best, cost, weight, uneven, ok = e.Handle, c, e.Weight, false, true
		case c == cost:
			uneven = uneven || e.Weight != weight
		}
	}
	if uneven {
		if t, found := inSmoothTurn(es, tried, start, cost); found {
			return t, true
		}
	}
	return best, ok
}

func (e *Entry[T]) cost() float64 { return float64(e.Handle.Active()) / e.Weight }

// inSmoothTurn is a step of smooth weighted round robin among the entries of at most
// that cost, as nginx's least_conn takes it. Threads that take one at the same time may
// take the same entry, no more: what is added is always taken off again.
func inSmoothTurn[T Handle](es []Entry[T], tried []T, start int, cost float64) (t T, ok bool) {
	var (
		best       *turn
		top, total int64
	)
	for i := range es {
		e := &es[(start+i)%len(es)]
		if len(tried) > 0 && slices.Contains(tried, e.Handle) || e.cost() > cost {
			continue
		}
		share := e.share()
		total += share
		if now := e.turn.current.Add(share); best == nil || now > top {
			best, top, t = e.turn, now, e.Handle
		}
	}
	if best == nil { // they have got connections meanwhile
		return t, false
	}
	best.current.Add(-total)
	return t, true
}

func betterOfTwo[T Handle](es []Entry[T], tried []T, random uint64) (best T, ok bool) {
	n := uint64(len(es))
	if n < 2 {
		return best, false
	}
	i := random % n
	j := (i + 1 + random/n%(n-1)) % n
	return least([]Entry[T]{es[i], es[j]}, tried, 0)
}

func (p *Pool[T]) inTurn(s *snapshot[T], tried []T) (t T, ok bool) {
	n := uint64(len(s.turns))
	if n == 0 {
		return t, false
	}
	at := p.next.Add(1)
	for i := range n {
		if t := s.turns[(at+i)%n]; !slices.Contains(tried, t) {
			return t, true
		}
	}
	return t, false
}

// turns lays the entries out so that each appears by its weight, spread evenly
// (smooth weighted round robin). Weights are taken in steps of a tenth of the
// largest.
func turns[T Handle](es []Entry[T]) []T {
	var largest float64
	for _, e := range es {
		largest = max(largest, e.Weight)
	}
	var (
		weight  = make([]int, len(es))
		current = make([]int, len(es))
		total   int
		order   []T
	)
	for i, e := range es {
		weight[i] = max(1, int(e.Weight/largest*10+0.5))
		total += weight[i]
	}
	for range total {
		best := 0
		for i := range es {
			current[i] += weight[i]
			if current[i] > current[best] {
				best = i
			}
		}
		current[best] -= total
		order = append(order, es[best].Handle)
	}
	return order
}
