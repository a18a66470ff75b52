package status

import (
	"fmt"
	"strings"
	"time"
)

// wide is the table followed by everything else that is known, a section a part.
func wide(b *strings.Builder, r *Report) {
	table(b, r)
	b.WriteByte('\n')
	memberRows(b, r)
	b.WriteByte('\n')
	apiServerRows(b, r)
	b.WriteByte('\n')
	backendRows(b, r)
	b.WriteByte('\n')
	processRows(b, r)
	b.WriteByte('\n')
	certificateRows(b, r)
	watchdogRows(b, r)
	agentRows(b, r)
	rendezvousRows(b, r)
}

func rendezvousRows(b *strings.Builder, r *Report) {
	rows := [][]string{{"RENDEZVOUS", "OPEN", "WHY NOT"}}
	for i := range r.Masters {
		m := &r.Masters[i]
		switch v := m.Rendezvous; {
		case v == nil:
		case v.Open:
			rows = append(rows, []string{m.Name, "yes", "-"})
		default:
			rows = append(rows, []string{m.Name, "no", v.Why})
		}
	}
	if len(rows) > 1 {
		b.WriteByte('\n')
		columns(b, rows)
	}
}

func memberRows(b *strings.Builder, r *Report) {
	rows := [][]string{{"ETCD MEMBER", "ID", "ROLE", "TERM", "INDEX", "APPLIED", "DB", "IN USE", "VERSION", "ALARMS", "LATENCY", "ERROR"}}
	for i := range r.Etcd.Members {
		m := &r.Etcd.Members[i]
		row := []string{memberName(m), orElse(m.ID, "-"), orElse(m.Role, "unknown")}
		if m.Reachable {
			row = append(row, fmt.Sprint(m.Term), fmt.Sprint(m.Index), fmt.Sprint(m.Applied), sizeOf(m.DBSize), sizeOf(m.DBInUse),
				orElse(m.Version, "-"), orElse(strings.Join(m.Alarms, ","), "-"), latency(m.Latency))
		} else {
			row = append(row, "-", "-", "-", "-", "-", "-", "-", "-")
		}
		rows = append(rows, append(row, m.Error))
	}
	columns(b, rows)
}

func apiServerRows(b *strings.Builder, r *Report) {
	rows := [][]string{{"API SERVER", "ADDRESS", "READY", "LIVE", "LATENCY", "WHY"}}
	for _, a := range r.APIServers {
		rows = append(rows, []string{a.Master, a.Address, word(a.Ready), word(a.Live), latency(a.Latency), a.Why})
	}
	columns(b, rows)
}

func backendRows(b *strings.Builder, r *Report) {
	rows := [][]string{{"BALANCER", "ADDRESS", "SERVING", "LATENCY", "CONNECTIONS", "BACKEND", "STATE", "BACKEND CONNECTIONS", "WHY"}}
	for _, x := range r.Balancers {
		row := []string{x.Name, x.Address, word(x.Serving), latency(x.Latency)}
		if x.Backends == nil {
			rows = append(rows, append(row, "unknown", "unknown", "-", "-", x.Why))
			continue
		}
		row = append(row, fmt.Sprint(x.Connections))
		for i, k := range x.Backends {
			if i > 0 {
				row = []string{"", "", "", "", ""}
			}
			rows = append(rows, append(row, orElse(k.Name, k.Address), k.State, fmt.Sprint(k.Connections), orElse(k.Why, x.Why)))
		}
	}
	columns(b, rows)
}

func processRows(b *strings.Builder, r *Report) {
	rows := [][]string{{"MASTER", "PROCESS", "STATE", "PID", "SINCE", "RESTARTS", "LAST EXIT", "STATUS"}}
	for i := range r.Masters {
		m := &r.Masters[i]
		for _, p := range m.Processes {
			pid := "-"
			if p.MainPID > 0 {
				pid = fmt.Sprint(p.MainPID)
			}
			rows = append(rows, []string{m.Name, p.Name, p.Active, pid, since(r.Time, p.Since), fmt.Sprint(p.Restarts), orElse(p.LastExit, "-"), p.Status})
		}
		if m.ProcessesFrom == "" {
			rows = append(rows, []string{m.Name, "unknown", "-", "-", "-", "-", "-", ""})
		}
	}
	columns(b, rows)
}

func certificateRows(b *strings.Builder, r *Report) {
	rows := [][]string{{"MASTER", "CERTIFICATE", "SUBJECT", "EXPIRES", "LEFT", "ERROR"}}
	for i := range r.Masters {
		m := &r.Masters[i]
		for _, c := range m.Certificates {
			expires, left := "-", "-"
			if c.Error == "" {
				expires, left = c.NotAfter.UTC().Format(time.DateOnly), fmt.Sprintf("%dd", c.DaysLeft)
			}
			rows = append(rows, []string{m.Name, c.File, orElse(c.Subject, "-"), expires, left, c.Error})
		}
		if len(m.Certificates) == 0 {
			rows = append(rows, []string{m.Name, "unknown", "-", "-", "-", ""})
		}
	}
	columns(b, rows)
}

func watchdogRows(b *strings.Builder, r *Report) {
	rows := [][]string{{"WATCHDOG", "TARGET", "STATE", "HELD", "REASON"}}
	for i := range r.Masters {
		m := &r.Masters[i]
		if m.Watchdog == nil {
			continue
		}
		for _, t := range m.Watchdog.Targets {
			state := t.State
			if m.Watchdog.Paused {
				state += " (paused)"
			}
			held := "no"
			if t.Held {
				held = "yes"
			}
			rows = append(rows, []string{m.Name, t.Name, state, held, orElse(t.Reason, "-")})
		}
	}
	if len(rows) > 1 {
		b.WriteByte('\n')
		columns(b, rows)
	}
}

func agentRows(b *strings.Builder, r *Report) {
	b.WriteByte('\n')
	rows := [][]string{{"AGENT", "VERSION", "LATENCY", "CLOCK", "SEES", "ERROR"}}
	for i := range r.Masters {
		m := &r.Masters[i]
		if !m.Agent.Reachable {
			rows = append(rows, []string{m.Name, "-", "-", "-", "-", m.Agent.Error})
			continue
		}
		var sees []string
		for _, p := range m.Peers {
			sees = append(sees, p.Name+" "+p.State)
		}
		rows = append(rows, []string{m.Name, orElse(m.Agent.Version, "-"), latency(m.Agent.Latency),
			fmt.Sprintf("%+v", m.Agent.Skew.Duration().Round(time.Millisecond)), orElse(strings.Join(sees, ", "), "-"), ""})
	}
	columns(b, rows)
}

func word(a Answer) string { return orElse(string(a), string(Unclear)) }

func latency(s Seconds) string {
	if s <= 0 {
		return "-"
	}
	return s.Duration().Round(100 * time.Microsecond).String()
}

func since(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return age(now.Sub(t)) + " ago"
}
