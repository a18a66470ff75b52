// Package wire holds what the lab's processes tell each other: the plan of a lab,
// and one request with one answer a connection over the keeper's socket.
package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/hactl/hactl/test/hosts/internal/link"
)

// The lab's own end of its network: what a program outside all hosts uses.
const (
	Observer = "lab"
	Bridge   = "lab0"
)

// Network is the address plan inside the namespace: the observer has .1, the
// hosts have .11, .12, …
func Network() netip.Prefix { return netip.MustParsePrefix("10.245.1.0/24") }

// MaxHosts is how many hosts the address plan has room for.
const MaxHosts = 200

// Address is the address of the host with the number i, from 1; 0 is the observer.
func Address(i int) netip.Addr {
	if i == 0 {
		return netip.AddrFrom4([4]byte{10, 245, 1, 1})
	}
	return netip.AddrFrom4([4]byte{10, 245, 1, byte(10 + i)})
}

// MAC is the hardware address that belongs to an address of the lab.
func MAC(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x68, b[0], b[1], b[2], b[3]}
}

// Plan is what a lab is made of.
type Plan struct {
	Name       string   `json:"name"`
	Tree       string   `json:"tree"`   // the base tree, read-only
	Cgroup     string   `json:"cgroup"` // name of the lab's group, below the root of the cgroup2 hierarchy
	Hosts      []Host   `json:"hosts"`
	Binds      []Bind   `json:"binds,omitempty"`
	NspawnArgs []string `json:"nspawnArgs,omitempty"`
}

// Host is one host of a plan.
type Host struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

// Bind is a folder or file of the machine that every host sees.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Writable bool   `json:"writable,omitempty"`
}

// The requests that the keeper understands.
const (
	OpStatus   = "status"
	OpPowerOn  = "power-on" // answers when the host has booted
	OpPowerOff = "power-off"
	OpFreeze   = "freeze"
	OpThaw     = "thaw"
	OpCut      = "cut"
	OpSlow     = "slow"
	OpHeal     = "heal" // without ways: all of them
)

// Request is one request.
type Request struct {
	Op    string      `json:"op"`
	Host  string      `json:"host,omitempty"`
	Ways  []link.Way  `json:"ways,omitempty"`
	Shape *link.Shape `json:"shape,omitempty"`
	// Within is the time that the caller gives. Default 1m.
	Within time.Duration `json:"within,omitempty"`
}

// Answer is the answer to a Request.
type Answer struct {
	Error  string  `json:"error,omitempty"`
	Status *Status `json:"status,omitempty"`
}

// Status is how a lab is.
type Status struct {
	Hosts []HostStatus `json:"hosts"`
	Cuts  []link.Way   `json:"cuts"`
	Slows []SlowStatus `json:"slows"`
}

// The states of a host.
const (
	Off     = "off"
	Booting = "booting"
	On      = "on"
	Frozen  = "frozen"
)

// HostStatus is how a host is.
type HostStatus struct {
	Host
	State string `json:"state"`
	// Leader is the pid of the host's PID 1 in the lab's pid namespace; 0 when it
	// is off.
	Leader int `json:"leader,omitempty"`
	Boots  int `json:"boots"` // how often it was powered on or rebooted
	// BootTook is the time from power-on until systemd said that it is up.
	BootTook time.Duration `json:"bootTook,omitempty"`
}

// SlowStatus is a slow way.
type SlowStatus struct {
	link.Way
	Shape link.Shape `json:"shape"`
}

// maxMessage bounds what either side reads, in bytes.
const maxMessage = 1 << 20

// Call sends a request to the socket and returns the answer. The error is the
// keeper's own, or that of the connection.
func Call(ctx context.Context, socket string, req Request) (*Status, error) {
	if deadline, ok := ctx.Deadline(); ok && req.Within == 0 {
		req.Within = time.Until(deadline)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s: %w", req.Op, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var answer Answer
	err = json.NewEncoder(conn).Encode(req)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&answer)
	}
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", req.Op, context.Cause(ctx))
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: the lab's keeper went away", req.Op)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", req.Op, err)
	case answer.Error != "":
		return nil, errors.New(answer.Error)
	}
	return answer.Status, nil
}

// Read reads a request.
func Read(conn io.Reader) (Request, error) {
	var req Request
	d := json.NewDecoder(io.LimitReader(conn, maxMessage))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return Request{}, fmt.Errorf("read request: %w", err)
	}
	if req.Within <= 0 {
		req.Within = time.Minute
	}
	return req, nil
}
