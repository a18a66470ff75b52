package keeper

import "testing"

func TestIsOrphan(t *testing.T) {
	for stat, want := range map[string]bool{
		"17 (systemd) Z 1 17 17 0":   true,
		"17 (a) b) Z 1) S 1 17 17 0": false,
		"17 (a) S 9) Z 1 17 17 0":    true,
		"17 (systemd) Z 16 17 17 0":  false,
		"17 (systemd) S 1 17 17 0":   false,
		"17 (x) Z":                   false,
		"":                           false,
	} {
		if got := isOrphan(stat); got != want {
			t.Errorf("%q: got %v", stat, got)
		}
	}
}
