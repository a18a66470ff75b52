package pool

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A story: answers (o ok, r red, g gone, s silent) and what each changes.
func TestHealth(t *testing.T) {
	for name, tc := range map[string]struct {
		rules   Rules
		answers string
		want    string
	}{
		"first good answer":                {Rules{1, 2}, "o", "ready"},
		"rise":                             {Rules{3, 2}, "ooroo oo", ". . . . . ready ."},
		"one bad answer is none":           {Rules{1, 2}, "oroso", "ready . . . ."},
		"red drains":                       {Rules{1, 2}, "orrr", "ready . draining ."},
		"red, then its listener closes":    {Rules{1, 2}, "orrggg", "ready . draining ejected . ."},
		"killed":                           {Rules{1, 2}, "oggg", "ready . ejected ."},
		"frozen":                           {Rules{1, 2}, "osss", "ready . ejected+cut ."},
		"frozen while draining":            {Rules{1, 2}, "orrss", "ready . draining . ejected+cut"},
		"one silence does not end a drain": {Rules{1, 2}, "orrsr", "ready . draining . ."},
		"gone, then silent":                {Rules{1, 2}, "oggsss", "ready . ejected . cut ."},
		"gone and silent mixed":            {Rules{1, 2}, "ogsgs", "ready . ejected . ."},
		"comes back red, then ready":       {Rules{1, 2}, "oggrro", "ready . ejected draining . ready"},
		"frozen twice":                     {Rules{1, 2}, "ossoss", "ready . ejected+cut ready . ejected+cut"},
		"never ready":                      {Rules{1, 2}, "gg", ". ejected"},
		"fall 1":                           {Rules{1, 1}, "os", "ready ejected+cut"},
		"zero rules":                       {Rules{}, "or", "ready draining"},
	} {
		t.Run(name, func(t *testing.T) {
			var (
				h   Health
				got []string
				now time.Time
			)
			for _, c := range strings.ReplaceAll(tc.answers, " ", "") {
				now = now.Add(time.Second)
				a := map[rune]Answer{'o': OK, 'r': Red, 'g': Gone, 's': Silent}[c]
				ch, changed := h.Observe(tc.rules, a, a.String(), now)
				word := "."
				if changed {
					word = ""
					if ch.From != ch.To {
						word = ch.To.String()
						if h.Since != now || h.Why != a.String() || h.State != ch.To {
							t.Errorf("health %+v after %+v", h, ch)
						}
					}
					if ch.Cut {
						word = strings.TrimPrefix(word+"+cut", "+")
					}
				}
				got = append(got, word)
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("%s\n got %s\nwant %s", tc.answers, s, tc.want)
			}
		})
	}
}

func TestStateText(t *testing.T) {
	for s := Starting; s <= Ejected; s++ {
		text, _ := s.MarshalText()
		var back State
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Error(s, back, err)
		}
	}
	var s State
	if err := s.UnmarshalText([]byte("fine")); err == nil {
		t.Error("no error")
	}
}

func ExampleHealth_Observe() {
	var h Health
	for _, a := range []Answer{OK, Silent, Silent} {
		if c, changed := h.Observe(Rules{Rise: 1, Fall: 2}, a, "", time.Time{}); changed {
			fmt.Println(c.From, "→", c.To, "cut:", c.Cut)
		}
	}
	// Output:
	// starting → ready cut: false
	// ready → ejected cut: true
}
