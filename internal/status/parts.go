package status

import "time"

// Etcd is the state of the whole etcd cluster.
type Etcd struct {
	// Quorum says whether a write could be agreed on: a linearizable read worked.
	Quorum Answer `json:"quorum"`
	Why    string `json:"why,omitempty"` // when Quorum is not yes
	// Membership says whether Members are etcd's own list (yes), or only what the
	// config and the members that answered suggest.
	Membership Answer   `json:"membership"`
	Leader     string   `json:"leader,omitempty"` // member name; empty: none known
	Term       uint64   `json:"term,omitempty"`
	Quota      int64    `json:"quotaBytes,omitempty"` // of each member's database
	Members    []Member `json:"members"`
}

// The roles of a member.
const (
	RoleLeader  = "leader"
	RoleVoter   = "voter"
	RoleLearner = "learner"
)

// Member is one etcd member.
type Member struct {
	Name      string  `json:"name"` // empty: added but never started
	ID        string  `json:"id,omitempty"`
	Role      string  `json:"role"` // leader, voter, learner; empty: unknown
	Endpoint  string  `json:"endpoint,omitempty"`
	Reachable bool    `json:"reachable"`
	Error     string  `json:"error,omitempty"`  // why it is not reachable, or what it complains of
	Leader    string  `json:"leader,omitempty"` // the leader it sees; empty: none
	Term      uint64  `json:"term,omitempty"`
	Index     uint64  `json:"raftIndex,omitempty"`
	Applied   uint64  `json:"raftAppliedIndex,omitempty"`
	DBSize    int64   `json:"dbSizeBytes,omitempty"`
	DBInUse   int64   `json:"dbInUseBytes,omitempty"`
	Version   string  `json:"version,omitempty"`
	Latency   Seconds `json:"latencySeconds,omitempty"`
	// Alarms are NOSPACE and CORRUPT.
	Alarms []string `json:"alarms,omitempty"`
}

// APIServer is one master's kube-apiserver, asked directly.
type APIServer struct {
	Master  string `json:"master"`
	Address string `json:"address"` // host:port
	// Ready is whether /readyz answered 200.
	Ready Answer `json:"ready"`
	// Live is whether /livez without the etcd check answered 200: a live server
	// that is not ready waits for something else.
	Live    Answer  `json:"live"`
	Why     string  `json:"why,omitempty"` // when it is not ready
	Latency Seconds `json:"latencySeconds,omitempty"`
}

// Singleton is a program that runs once in the whole cluster.
type Singleton struct {
	Name string `json:"name"`
	// Known says where the rest comes from: "linearizable" (true now), "stale" (one
	// member's memory; may be old), or empty when etcd could not be asked.
	Known   string    `json:"known"`
	Holder  string    `json:"holder,omitempty"` // empty: nobody
	Token   int64     `json:"token,omitempty"`
	Since   time.Time `json:"since,omitzero"` // of the holder's term
	TTL     Seconds   `json:"ttlSeconds,omitempty"`
	Renewed time.Time `json:"renewed,omitzero"` // the holder's last renewal, by its clock
	Waiting []string  `json:"waiting"`          // who would take over, first one first
	MoveTo  string    `json:"moveTo,omitempty"` // a hand-over that was ordered and is not done
	Paused  bool      `json:"paused,omitempty"`
}

// The values of Singleton.Known.
const (
	Linearizable = "linearizable"
	Stale        = "stale"
)

// Balancer is one master's hactl lb.
type Balancer struct {
	Name    string `json:"name"`    // the master's
	Address string `json:"address"` // host:port
	// Serving is whether an API server answered /readyz with 200 through it.
	Serving Answer  `json:"serving"`
	Why     string  `json:"why,omitempty"`
	Latency Seconds `json:"latencySeconds,omitempty"`
	// Backends and Connections are the balancer's own words; nil when nobody told.
	Backends    []Backend `json:"backends"`
	Connections int       `json:"connections"`
}

// The states of a backend that have a meaning here; a balancer may have more
// (starting, draining, ejected, distrusted): none of those gets new connections.
const (
	BackendReady   = "ready"
	BackendDrained = "drained" // by an operator
	BackendRemoved = "removed" // not in the list any more; old connections finish
)

// Backend is an API server as a balancer sees it.
type Backend struct {
	Name        string `json:"name"`
	Address     string `json:"address"`
	State       string `json:"state"`
	Why         string `json:"why,omitempty"` // when it is not ready
	Connections int    `json:"connections"`
}
