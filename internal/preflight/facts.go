package preflight

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/etcdcluster"
)

// Facts are what a machine showed. A look that failed has its error beside what
// it would have found.
type Facts struct {
	Cluster   *config.Cluster // nil: it could not be read or is wrong; ConfigErr says why
	ConfigErr error

	Wanted    string        // the name that the user gave; empty: found out by Self
	Master    config.Master // which master this machine is; zero: not known
	Hostname  string
	Addresses []netip.Addr // of every interface that is up
	Machine   string       // tells machines apart (Peer.Machine); empty: not known

	UID     int
	Systemd Systemd
	Ports   []PortUse
	// Duplicates are the hardware addresses of other machines that answer for
	// Master.Address.
	Duplicates    []string
	DuplicatesErr error

	Peers          []Peer
	Unsynchronised bool // the kernel's clock follows no time server
	ClockErr       error

	Fsync   Fsync
	Volumes []Volume

	OpenFiles    uint64 // what a unit can get at most
	OpenFilesErr error
	Memory, Swap uint64 // bytes
	MemoryErr    error
	CPUs         int

	Programs []Program
	Release  string // hactl's own version
	Kubelet  string // version of the kubelet that is installed; empty: none

	TokenFile string
	TokenErr  error // nil: it is there, private, well formed and has not expired

	Old Old
}

// Systemd is how systemd is reached.
type Systemd struct {
	Booted  bool   // PID 1 is systemd
	Version int    // major; 0: not known
	State   string // running, degraded, …; empty: not known
	BusErr  error  // why it does not answer over D-Bus
}

// PortUse is one of the master's ports.
type PortUse struct {
	config.Port
	Net    string // tcp or udp
	Taken  bool
	Holder Process // zero: nobody, or not to be found out
	Err    error   // neither free nor taken: it could not be tried
}

// Process is a running process.
type Process struct {
	PID  int
	Name string // of its program
	Unit string // of systemd, with its ending; empty: none
}

// Peer is what another machine said of itself.
type Peer struct {
	Name, Address string
	Machine       string        // tells two machines of one name apart
	Skew          time.Duration // its clock minus this machine's
}

// Fsync is how fast the disk under etcd's data makes a write durable.
type Fsync struct {
	Dir    string
	FS     string // type of the file system where it matters (tmpfs), else empty
	Writes int
	P99    time.Duration
	Max    time.Duration
	Err    error
}

// Volume is a file system and what the folders on it need.
type Volume struct {
	Paths    []string
	Free     uint64 // bytes for root
	Own      uint64 // bytes that etcd's data take already
	Need     uint64 // bytes, Own included, until nothing more can be asked for
	Least    uint64 // bytes below which starting is reckless
	ReadOnly bool
	Err      error
}

// Program is a program that a master runs.
type Program struct {
	Path       string
	Kubernetes bool   // its version is the configuration's
	Version    string // as it says; empty with Err
	Err        error
}

// Old is what an earlier installation left.
type Old struct {
	Manifests []string  // static pods of a control plane
	Processes []Process // of a control plane, and not of this installation
	EtcdData  string    // another etcd's data folder; empty: none
	// CAName and CAOrg are the subject of the Kubernetes CA that is there; both
	// empty: none.
	CAFile, CAName, CAOrg string
	CAErr                 error
	Intent                *etcdcluster.Intent // nil: none
	IntentFile            string
	IntentErr             error
}

func (p PortUse) check() string { return portPrefix + strconv.Itoa(p.Port.Port) }

// member says whether this machine is a member of its cluster already.
func (f *Facts) member() bool {
	return f.Old.Intent != nil && f.Old.Intent.State == etcdcluster.Used
}
