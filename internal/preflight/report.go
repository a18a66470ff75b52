package preflight

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hactl/hactl/internal/exitcode"
)

// Report is the outcome of all checks: `hactl preflight -o json` prints it, and
// docs/preflight.md describes it.
type Report struct {
	Cluster  string    `json:"cluster"` // empty: not known
	Master   string    `json:"master"`  // empty: not known
	Address  string    `json:"address"`
	Ready    bool      `json:"ready"` // no error is left
	Findings []Finding `json:"findings"`
	Passed   []string  `json:"passed"` // checks that found nothing
	// NotChecked are checks whose question is void, with the reason.
	NotChecked []NotChecked `json:"notChecked"`
}

// NotChecked is a check that was not made.
type NotChecked struct {
	Check   string `json:"check"`
	Because string `json:"because"`
}

// NewReport evaluates the facts. The errors of the checks named in ignore become
// warnings; All stands for every check. See CheckIgnore for wrong names.
func NewReport(f Facts, ignore []string) *Report {
	r := &Report{Master: f.Master.Name, Address: f.Master.Address, Findings: []Finding{}, Passed: []string{}, NotChecked: []NotChecked{}}
	if f.Cluster != nil {
		r.Cluster = f.Cluster.Name
	}
	failed := map[string]bool{}
	for _, x := range Evaluate(f) {
		failed[x.Check] = true
		ignored := slices.ContainsFunc(ignore, func(n string) bool { return strings.EqualFold(n, x.Check) || strings.EqualFold(n, All) })
		if x.Level == Error && ignored {
			x.Level, x.Ignored = Warning, true
		}
		r.Findings = append(r.Findings, x)
	}
	// Errors first; within a level the order of the checks.
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return strings.Compare(a.Level, b.Level) })
	void := map[string]string{}
	for _, c := range checks {
		if c.void != nil && c.void(&f) != "" {
			void[c.name] = c.void(&f)
			r.NotChecked = append(r.NotChecked, NotChecked{strings.TrimSuffix(c.name, "-"), void[c.name]})
		}
	}
	for _, n := range Names(f) {
		if void[n] == "" && !failed[n] {
			r.Passed = append(r.Passed, n)
		}
	}
	r.Ready = r.count(Error) == 0
	return r
}

func (r *Report) count(level string) int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == level {
			n++
		}
	}
	return n
}

// Err is nil when the machine is ready, else an error with the exit code
// exitcode.Unhealthy. It repeats no finding: print the report too.
func (r *Report) Err() error {
	if r.Ready {
		return nil
	}
	return exitcode.Errorf(exitcode.Unhealthy, "preflight: %s on %s", plural(r.count(Error), "error"), r.who()).
		WithHint("follow the cures above, or insist with --ignore-preflight %s", strings.Join(r.errorNames(), ","))
}

func (r *Report) errorNames() []string {
	var names []string
	for _, f := range r.Findings {
		if f.Level == Error && !slices.Contains(names, f.Check) {
			names = append(names, f.Check)
		}
	}
	return names
}

func (r *Report) who() string {
	if r.Master == "" {
		return "this machine"
	}
	return fmt.Sprintf("master %s (%s)", r.Master, r.Address)
}

// JSON writes r as JSON.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// Table writes r for people.
func (r *Report) Table(w io.Writer) error {
	var b strings.Builder
	verdict := "ready"
	if !r.Ready {
		verdict = "not ready"
	}
	fmt.Fprintf(&b, "%s is %s: %s, %s\n", r.who(), verdict, plural(r.count(Error), "error"), plural(r.count(Warning), "warning"))
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Check))
	}
	if len(r.Findings) > 0 {
		b.WriteByte('\n')
	}
	for _, f := range r.Findings {
		note := ""
		if f.Ignored {
			note = " (an error, ignored)"
		}
		fmt.Fprintf(&b, "%-7s  %-*s  %s%s\n", f.Level, width, f.Check, oneLine(f.Problem), note)
		fmt.Fprintf(&b, "%-7s  %-*s  try: %s\n", "", width, "", oneLine(f.Cure))
	}
	if len(r.Passed)+len(r.NotChecked) > 0 {
		b.WriteByte('\n')
	}
	if len(r.Passed) > 0 {
		fmt.Fprintf(&b, "passed       %s\n", strings.Join(foldPorts(r.Passed), ", "))
	}
	for _, n := range r.NotChecked {
		fmt.Fprintf(&b, "not checked  %s: %s\n", n.Check, n.Because)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// foldPorts replaces the ports by how many they are.
func foldPorts(names []string) []string {
	var out []string
	at, n := -1, 0
	for _, name := range names {
		if !strings.HasPrefix(name, portPrefix) {
			out = append(out, name)
			continue
		}
		if n++; at < 0 {
			at = len(out)
			out = append(out, "")
		}
	}
	if at >= 0 {
		out[at] = plural(n, "port")
	}
	return out
}

// oneLine keeps what others have put into a text, such as a program's output,
// from looking like a line of the report or steering the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
