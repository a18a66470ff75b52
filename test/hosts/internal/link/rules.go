package link

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net"
	"slices"
	"strings"
)

// Way is one direction between two hosts.
type Way struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func (w Way) String() string { return w.From + " → " + w.To }

// Back is the other direction.
func (w Way) Back() Way { return Way{From: w.To, To: w.From} }

// Table is what has been done to the ways of a lab. The zero value is not
// usable; see NewTable. It is not safe for concurrent use.
type Table struct {
	Cuts  map[Way]bool
	Slows map[Way]Shape
}

// NewTable returns a Table in which every way is free.
func NewTable() *Table { return &Table{Cuts: map[Way]bool{}, Slows: map[Way]Shape{}} }

// Port is the name of a host's end in the lab's namespace.
func Port(host string) string { return "vb-" + host }

// Rules renders t as an nftables script that replaces what was there before.
// mac gives a host's hardware address. Frames to a slow host are dropped here
// because a Forwarder carries them. Address resolution (ARP) always passes: else a
// one-way cut would cut both ways as soon as a neighbour's entry is too old, and
// a healed way would stay cut until the next request, a second later.
func (t *Table) Rules(mac func(host string) net.HardwareAddr) string {
	var b strings.Builder
	b.WriteString("table bridge lab {}\ndelete table bridge lab\ntable bridge lab {\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n")
	for _, w := range sorted(maps.Keys(t.Cuts)) {
		fmt.Fprintf(&b, "\t\tiifname %q oifname %q ether type != arp counter drop\n", Port(w.From), Port(w.To))
	}
	for _, w := range sorted(maps.Keys(t.Slows)) {
		if !t.Cuts[w] {
			fmt.Fprintf(&b, "\t\tiifname %q oifname %q ether type != arp ether daddr %s counter drop\n", Port(w.From), Port(w.To), mac(w.To))
		}
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// Forwarded lists the ways that need a Forwarder, in order.
func (t *Table) Forwarded() []Way {
	return slices.DeleteFunc(sorted(maps.Keys(t.Slows)), func(w Way) bool { return t.Cuts[w] })
}

// Compare orders ways by their names.
func Compare(a, b Way) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) }

func sorted(ways iter.Seq[Way]) []Way { return slices.SortedFunc(ways, Compare) }
