package pool

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

type fake struct {
	name string
	n    int64
}

func (f *fake) Active() int64 { return f.n }

func entries(spec string) []Entry[*fake] {
	var es []Entry[*fake]
	for f := range strings.FieldsSeq(spec) {
		e := Entry[*fake]{Handle: &fake{name: f[:1]}, Weight: 1, Ready: true}
		for _, c := range f[1:] {
			switch {
			case c == '-':
				e.Ready = false
			case c == '!':
				e.Off = true
			case c == 'l':
				e.Local = true
			case c == 'w':
				e.Weight = 3
			case c >= '0' && c <= '9':
				e.Handle.n = int64(c - '0')
			}
		}
		es = append(es, e)
	}
	return es
}

// In the specs: a digit is the number of connections, - not ready, ! drained by
// an operator, l local, w weight 3.
func TestPick(t *testing.T) {
	for _, tc := range []struct {
		algorithm         Algorithm
		spec, tried, want string // want: the names in the order in which they would be tried
	}{
		{LeastConn, "a3 b1 c2", "", "bca"},
		{LeastConn, "a3 b1 c2", "b", "ca"},
		{LeastConn, "a0- b9 c8", "", "cba"},   // not ready ones last
		{LeastConn, "a5- b9-", "", "ab"},      // none ready: all
		{LeastConn, "a0! b9", "", "b"},        // never a drained one
		{LeastConn, "a0! b9-", "", "b"},       // not even then
		{LeastConn, "a5w b2", "", "ab"},       // (5+1)/3 < (2+1)/1
		{LeastConn, "", "", ""},               // nothing at all
		{LocalFirst, "a9l b0 c1l", "", "cab"}, // the own zone first
		{LocalFirst, "a9l- b0", "", "ba"},     // others when it has none
		{LocalFirst, "a2 b1", "", "ba"},       // no zone matches
		{Random2, "a1", "", "a"},              // one is enough
		{Random2, "a1- b2-", "", "ab"},        // none ready
		{RoundRobin, "a1- b2-", "", "ab"},     // none ready
	} {
		t.Run(string(tc.algorithm)+" "+tc.spec, func(t *testing.T) {
			p := New[*fake](tc.algorithm)
			es := entries(tc.spec)
			p.Set(es)
			var tried []*fake
			for _, e := range es {
				if strings.Contains(tc.tried, e.Handle.name) {
					tried = append(tried, e.Handle)
				}
			}
			got := ""
			for {
				f, ok := p.Pick(tried, 0)
				if !ok {
					break
				}
				got += f.name
				tried = append(tried, f)
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// One connection after the other: nobody has any when the next one comes, and yet each
// backend gets its share, also one that starts slowly.
func TestLightTrafficKeepsWeights(t *testing.T) {
	for _, alg := range []Algorithm{LeastConn, LocalFirst} {
		for _, weights := range [][]float64{{1, 2}, {1, 2, 1}, {256, 1, 3}, {1, 1, 0.25}, {7, 7, 2}} {
			p := New[*fake](alg)
			var (
				es    []Entry[*fake]
				total float64
			)
			for _, w := range weights {
				es = append(es, Entry[*fake]{Handle: &fake{}, Weight: w, Ready: true, Local: true})
				total += w
			}
			es = append(es, Entry[*fake]{Handle: &fake{}, Weight: 9}, Entry[*fake]{Handle: &fake{}, Weight: 9, Ready: true, Off: true})
			got := map[*fake]float64{}
			for i := range int(total * 40) {
				p.Set(es) // as each probe does
				f, _ := p.Pick(nil, uint64(i)*7919)
				got[f]++
			}
			for i, w := range weights {
				if want := w * 40; math.Abs(got[es[i].Handle]-want) > 3 {
					t.Errorf("%s, weights %v: backend %d got %v of %v, want %v", alg, weights, i, got[es[i].Handle], total*40, want)
				}
			}
		}
	}
}

// With connections that stay, loads are by weight.
func TestKeptConnectionsKeepWeights(t *testing.T) {
	p := New[*fake](LeastConn)
	es := []Entry[*fake]{{Handle: &fake{}, Weight: 1, Ready: true}, {Handle: &fake{}, Weight: 2, Ready: true}, {Handle: &fake{}, Weight: 0.5, Ready: true}}
	p.Set(es)
	for i := range uint64(350) {
		f, _ := p.Pick(nil, i*7919)
		f.n++
	}
	if a, b, c := es[0].Handle.n, es[1].Handle.n, es[2].Handle.n; a != 100 || b != 200 || c != 50 {
		t.Errorf("%d, %d, %d connections, want 100, 200, 50", a, b, c)
	}
}

// Equal backends are taken at random, so that many balancers do not all begin with the same.
func TestEqualsAreTakenAtRandom(t *testing.T) {
	es := entries("a b c")
	for i := range uint64(9) {
		p := New[*fake](LeastConn)
		p.Set(es)
		if f, _ := p.Pick(nil, i); f != es[i%3].Handle {
			t.Errorf("random %d: %s", i, f.name)
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, alg := range []Algorithm{LeastConn, RoundRobin, Random2, LocalFirst} {
		p := New[*fake](alg)
		p.Set(entries("aw b cl dwl"))
		if n := testing.AllocsPerRun(100, func() { p.Pick(nil, 5) }); n != 0 {
			t.Errorf("%s: %v allocations", alg, n)
		}
	}
}

func TestCompetitor(t *testing.T) {
	for _, tc := range []struct{ spec, tried, want string }{
		{"a0 b1 c2-", "a", "b"},
		{"a0 b1- c2-", "a", ""},   // not worth leaving a slow one for
		{"a0- b1- c2-", "a", "b"}, // none is known to be better
		{"a0 b1!", "a", ""},
	} {
		p := New[*fake](LeastConn)
		es := entries(tc.spec)
		p.Set(es)
		got := ""
		if f, ok := p.Competitor([]*fake{es[0].Handle}, 0); ok {
			got = f.name
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.spec, got, tc.want)
		}
	}
}

func TestRoundRobinKeepsWeights(t *testing.T) {
	p := New[*fake](RoundRobin)
	p.Set(entries("aw b c"))
	var order strings.Builder
	for range 25 {
		f, _ := p.Pick(nil, 0)
		order.WriteString(f.name)
	}
	s := order.String()
	if a := strings.Count(s, "a"); a < 13 || a > 17 || strings.Contains(s, "aaaaa") {
		t.Errorf("order %s", s)
	}
}

func TestRandom2PrefersTheBetter(t *testing.T) {
	p := New[*fake](Random2)
	p.Set(entries("a9 b0"))
	for i := range uint64(20) {
		if f, _ := p.Pick(nil, i*7919); f.name != "b" {
			t.Fatalf("random %d: %s", i, f.name)
		}
	}
}

// Whatever the state: never a drained one, never one twice, every other one in
// the end, ready ones first.
func TestPickIsCompleteAndFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		alg := rapid.SampledFrom([]Algorithm{LeastConn, RoundRobin, Random2, LocalFirst}).Draw(t, "algorithm")
		n := rapid.IntRange(0, 8).Draw(t, "n")
		var es []Entry[*fake]
		usable := 0
		for range n {
			e := Entry[*fake]{
				Handle: &fake{n: rapid.Int64Range(0, 1000).Draw(t, "active")},
				Weight: rapid.Float64Range(0.01, 256).Draw(t, "weight"),
				Ready:  rapid.Bool().Draw(t, "ready"), Local: rapid.Bool().Draw(t, "local"), Off: rapid.Bool().Draw(t, "off"),
			}
			es = append(es, e)
			if !e.Off {
				usable++
			}
		}
		p := New[*fake](alg)
		p.Set(es)
		var tried []*fake
		unready := false
		for {
			f, ok := p.Pick(tried, rapid.Uint64().Draw(t, "random"))
			if !ok {
				break
			}
			if slices.Contains(tried, f) {
				t.Fatal("picked twice")
			}
			e := es[slices.IndexFunc(es, func(e Entry[*fake]) bool { return e.Handle == f })]
			if e.Off || e.Ready && unready {
				t.Fatalf("wrong pick %+v", e)
			}
			unready = unready || !e.Ready
			tried = append(tried, f)
		}
		if len(tried) != usable {
			t.Fatalf("tried %d of %d", len(tried), usable)
		}
	})
}

func TestParseAlgorithm(t *testing.T) {
	if a, err := ParseAlgorithm(""); a != LeastConn || err != nil {
		t.Error(a, err)
	}
	if _, err := ParseAlgorithm("best"); err == nil || !strings.Contains(err.Error(), "want least-conn") {
		t.Error(err)
	}
}

func TestSurplus(t *testing.T) {
	for name, tc := range map[string]struct {
		loads []Load
		rate  float64
		want  []int
	}{
		"even":                  {[]Load{{100, 1, true, false}, {100, 1, true, false}}, 0.01, []int{0, 0}},
		"within a tenth":        {[]Load{{105, 1, true, false}, {95, 1, true, false}}, 0.01, []int{0, 0}},
		"one returned":          {[]Load{{150, 1, true, false}, {150, 1, true, false}, {0, 1, true, false}}, 0.01, []int{2, 1, 0}},
		"few":                   {[]Load{{2, 1, true, false}, {1, 1, true, false}, {0, 1, true, false}}, 0.01, []int{1, 0, 0}},
		"cannot be evener":      {[]Load{{1, 1, true, false}, {0, 1, true, false}}, 1, []int{0, 0}},
		"not ready stay":        {[]Load{{300, 1, false, false}, {10, 1, true, false}, {10, 1, true, false}}, 0.01, []int{0, 0, 0}},
		"weights":               {[]Load{{200, 2, true, false}, {100, 1, true, false}}, 0.01, []int{0, 0}},
		"never below the share": {[]Load{{12, 1, true, false}, {8, 1, true, false}}, 1, []int{2, 0}},
		"off":                   {[]Load{{300, 1, true, false}, {0, 1, true, false}}, -1, []int{0, 0}},
		"nobody":                {nil, 0.01, []int{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Surplus(tc.loads, tc.rate); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// With local-first others' connections move to local backends, and none to others.
func TestPreferLocal(t *testing.T) {
	load := func(active int64, local, ready bool) Load { return Load{active, 1, ready, local} }
	for name, tc := range map[string]struct {
		loads []Load
		want  []int
	}{
		"all are where they should be": {[]Load{load(300, true, true), load(0, false, true), load(0, false, true)}, []int{0, 0, 0}},
		"the local one returned":       {[]Load{load(0, true, true), load(150, false, true), load(150, false, true)}, []int{0, 2, 1}},
		"one of two local ones":        {[]Load{load(300, true, true), load(0, true, true), load(0, false, true)}, []int{3, 0, 0}},
		"no local one is ready":        {[]Load{load(0, true, false), load(300, false, true), load(0, false, true)}, []int{0, 3, 0}},
		"without zones":                {[]Load{load(300, false, true), load(0, false, true)}, []int{3, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Surplus(PreferLocal(tc.loads), 0.01); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// At the default rate loads are even within two minutes, whatever they were, if
// clients come back to the backend with the fewest.
func TestSurplusConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(t, "backends")
		loads := make([]Load, n)
		var all int64
		for i := range loads {
			loads[i] = Load{Active: rapid.Int64Range(0, 5000).Draw(t, "active"), Weight: 1, Ready: true}
			all += loads[i].Active
		}
		for range 120 {
			moved := 0
			for i, k := range Surplus(loads, 0.01) {
				loads[i].Active -= int64(k)
				moved += k
			}
			if float64(moved) > math.Ceil(float64(all)*0.01) {
				t.Fatalf("moved %d of %d in a second", moved, all)
			}
			for range moved {
				to := 0
				for i := range loads {
					if loads[i].Active < loads[to].Active {
						to = i
					}
				}
				loads[to].Active++
			}
		}
		fair := float64(all) / float64(n)
		for _, l := range loads {
			if float64(l.Active) > fair*1.1+1 {
				t.Fatalf("%v is not even", loads)
			}
		}
	})
}
