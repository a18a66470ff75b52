package lb

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseRate reads a share per second: "1%/s", "0.5%/s" or "0" for none (returned
// as a negative number, as Config.Rebalance wants it).
func ParseRate(s string) (float64, error) {
	if s == "0" || s == "off" {
		return -1, nil
	}
	num, ok := strings.CutSuffix(s, "%/s")
	v, err := strconv.ParseFloat(num, 64)
	if !ok || err != nil || !(v > 0 && v <= 100) {
		return 0, fmt.Errorf("rate %q: want a share per second such as 1%%/s, or 0", s)
	}
	return v / 100, nil
}
