package main

import "fmt"

// goals collects what was wanted and what was measured.
type goals struct{ lines []goal }

type goal struct {
	what, want string
	got        float64
	met        bool
}

// atLeast notes a goal that is met by got and more.
func (g *goals) atLeast(what string, got, want float64) {
	g.lines = append(g.lines, goal{what, fmt.Sprintf("≥ %.2f", want), got, got >= want})
}

// atMost notes a goal that is met by got and less.
func (g *goals) atMost(what string, got, want float64) {
	g.lines = append(g.lines, goal{what, fmt.Sprintf("≤ %.2f", want), got, got <= want})
}

func (g *goals) print() {
	if len(g.lines) == 0 {
		return
	}
	fmt.Printf("\n## goals of hactl (ratios to HAProxy in the same run, medians)\n\n| goal | wanted | measured | |\n|---|---|---|---|\n")
	for _, l := range g.lines {
		fmt.Printf("| %s | %s | %.2f | %s |\n", l.what, l.want, l.got, map[bool]string{true: "met", false: "MISSED"}[l.met])
	}
}

// judge notes the goals of a workload: of hactl, and of hactl-hello, which keeps the
// first bytes of each client for replay as it does before API servers.
func (g *goals) judge(workload string, all map[string]*series) {
	if ours := all["hactl"]; ours != nil {
		g.judgeOne(workload, "", ours)
		if splice := all["haproxy-splice"]; splice != nil && workload == "bulk" {
			g.atLeast("bulk, to HAProxy with forced splice", median(ours.rate)/median(splice.rate), 0.95)
		}
	}
	if ours := all["hactl-hello"]; ours != nil {
		g.judgeOne(workload, ", with replay", ours)
	}
}

func (g *goals) judgeOne(workload, with string, ours *series) {
	switch workload {
	case "small":
		g.atLeast("requests/s, 64 connections"+with, median(ours.rate), 1.05)
		g.atMost("CPU a request"+with, median(ours.cpu), 0.9)
	case "conn":
		g.atLeast("new connections/s"+with, median(ours.rate), 1.05)
		g.atMost("CPU a connection"+with, median(ours.cpu), 0.9)
	case "bulk":
		g.atLeast("bulk, to HAProxy's default"+with, median(ours.rate), 1.5)
	case "latency":
		g.atMost("p50, one connection"+with, median(ours.p50), 1)
		g.atMost("p99, one connection"+with, median(ours.p99), 1)
	}
}
