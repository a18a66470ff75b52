package status

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

// The formats of Render.
const (
	FormatTable = "table"
	FormatWide  = "wide"
	FormatJSON  = "json"
	FormatYAML  = "yaml"
)

// Formats lists what Render knows, for help texts.
func Formats() []string { return []string{FormatTable, FormatWide, FormatJSON, FormatYAML} }

// Render writes r to w. It errs on an unknown format, before writing anything.
func Render(w io.Writer, r *Report, format string) error {
	var b strings.Builder
	switch format {
	case FormatTable, "":
		table(&b, r)
	case FormatWide:
		wide(&b, r)
	case FormatJSON:
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return fmt.Errorf("render status as JSON: %w", err)
		}
		b.Write(append(data, '\n'))
	case FormatYAML:
		data, err := yaml.Marshal(r)
		if err != nil {
			return fmt.Errorf("render status as YAML: %w", err)
		}
		b.Write(data)
	default:
		return fmt.Errorf("output format %q: want one of %s", format, strings.Join(Formats(), ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// columns writes rows in aligned columns; the first row is the heading.
func columns(b *strings.Builder, rows [][]string) {
	var buf strings.Builder
	tw := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = printable(c)
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	_ = tw.Flush() // a strings.Builder does not fail
	for line := range strings.Lines(buf.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// table is the short form: the verdict, a line a master, the singletons, then
// what is wrong and what is unknown.
func table(b *strings.Builder, r *Report) {
	headline(b, r)
	b.WriteByte('\n')
	rows := [][]string{{"MASTER", "ADDRESS", "ETCD", "API SERVER", "BALANCER", "AGENT", "PROCESSES", "CERTIFICATES", "HOLDS"}}
	for i := range r.Masters {
		m := &r.Masters[i]
		rows = append(rows, []string{
			m.Name, m.Address, etcdWord(r, m.Name), apiServerWord(r, m.Name), balancerWord(r, m.Name),
			agentWord(m), processesWord(m), certificatesWord(r, m), holdsWord(r, m.Name),
		})
	}
	columns(b, rows)
	if len(r.Singletons) > 0 {
		b.WriteByte('\n')
		singletonRows(b, r)
	}
	reasons(b, r)
	unknowns(b, r)
}

func headline(b *strings.Builder, r *Report) {
	fmt.Fprintf(b, "%s is %s", orElse(printable(r.Cluster), "cluster"), r.Verdict)
	if r.Verdict != Healthy && len(r.Reasons) > 0 {
		fmt.Fprintf(b, ": %s", printable(r.Reasons[0].Text))
	}
	fmt.Fprintf(b, "\n%s", printable(etcdLine(&r.Etcd)))
	if f := r.FrontDoor; f != nil {
		fmt.Fprintf(b, "\nfront door %s: %s", f.Address, servingWord(f.Serving))
		if f.Why != "" && f.Serving != Yes {
			fmt.Fprintf(b, " (%s)", printable(f.Why))
		}
	}
	b.WriteByte('\n')
}

func etcdLine(e *Etcd) string {
	up, voters := countVoters(e)
	line := fmt.Sprintf("etcd: %d of %d voters answer", up, voters)
	switch e.Quorum {
	case Yes:
		line += ", quorum"
	case No:
		line += ", no quorum"
	default:
		line += ", quorum unknown"
	}
	if e.Leader != "" {
		line += ", leader " + e.Leader
	}
	if e.Term > 0 {
		line += fmt.Sprintf(", term %d", e.Term)
	}
	return line
}

func singletonRows(b *strings.Builder, r *Report) {
	rows := [][]string{{"SINGLETON", "HOLDER", "TOKEN", "SINCE", "WAITING"}}
	for _, s := range r.Singletons {
		if s.Known == "" {
			rows = append(rows, []string{s.Name, "unknown", "-", "-", "-"})
			continue
		}
		holder, token, since := "nobody", "-", "-"
		if s.Holder != "" {
			holder, token = s.Holder, fmt.Sprint(s.Token)
		}
		if s.Holder != "" && !s.Since.IsZero() {
			since = age(r.Time.Sub(s.Since)) + " ago"
		}
		if s.Paused {
			holder += " (paused)"
		}
		waiting := orElse(strings.Join(s.Waiting, ","), "nobody")
		if s.Waiting == nil {
			waiting = "unknown"
		}
		if s.Known == Stale {
			holder, waiting = holder+" (last known)", "-"
		}
		rows = append(rows, []string{s.Name, holder, token, since, waiting})
	}
	columns(b, rows)
}

func reasons(b *strings.Builder, r *Report) {
	if len(r.Reasons) == 0 {
		return
	}
	b.WriteByte('\n')
	for _, x := range r.Reasons {
		fmt.Fprintf(b, "%-9s %s\n", x.Level, printable(x.Text))
		if x.Hint != "" {
			fmt.Fprintf(b, "          try: %s\n", printable(x.Hint))
		}
	}
}

func unknowns(b *strings.Builder, r *Report) {
	if len(r.Unknown) == 0 {
		return
	}
	b.WriteByte('\n')
	for i, u := range r.Unknown {
		same := func(o Unknown) bool { return o.Object == u.Object && o.Why == u.Why }
		if slices.IndexFunc(r.Unknown, same) < i {
			continue // said with the first
		}
		var what []string
		for _, o := range r.Unknown {
			if same(o) {
				what = append(what, o.What)
			}
		}
		fmt.Fprintf(b, "unknown   %s of %s: %s\n", printable(strings.Join(what, ", ")), printable(u.Object), printable(u.Why))
	}
}
