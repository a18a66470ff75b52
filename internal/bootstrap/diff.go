package bootstrap

import "strings"

// diff shows the lines that differ: "-" ours, "+" theirs, with the nearest line
// before each that both have. Configurations are short, so the longest common
// subsequence is simply computed.
func diff(ours, theirs string) string {
	a, b := strings.Split(strings.TrimRight(ours, "\n"), "\n"), strings.Split(strings.TrimRight(theirs, "\n"), "\n")
	// common[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out strings.Builder
	same, shown := "", true
	line := func(sign, text string) {
		if !shown {
			out.WriteString("  " + same + "\n")
			shown = true
		}
		out.WriteString(sign + " " + text + "\n")
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			same, shown = a[i], false
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			line("-", a[i])
			i++
		default:
			line("+", b[j])
			j++
		}
	}
	return out.String()
}
