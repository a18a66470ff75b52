package status

import "time"

// The values of Report.APIVersion and Report.Kind.
const (
	APIVersion = "hactl/v1alpha1"
	Kind       = "Status"
)

// Verdict is the one word about a cluster.
type Verdict string

// The verdicts, from good to bad.
const (
	Healthy  Verdict = "healthy"  // everything that should be there is there and works
	Degraded Verdict = "degraded" // it works, but something redundant is lost or unknown
	Down     Verdict = "down"     // it does not serve
)

// Answer is the answer to a yes-or-no question that may have none.
type Answer string

// The answers. The zero value counts as Unclear.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unclear Answer = "unknown" // could not be asked; the report's Unknown says why
)

// Report is everything that is known about a cluster at one moment, as seen
// from the machine that asked. Judge fills Verdict, Answered and Reasons from
// the rest.
type Report struct {
	APIVersion string    `json:"apiVersion"` // hactl/v1alpha1
	Kind       string    `json:"kind"`       // Status
	Cluster    string    `json:"cluster"`    // the cluster's name
	Time       time.Time `json:"time"`       // when the asking began, by this machine's clock
	Verdict    Verdict   `json:"verdict"`
	// Answered is false when not one part of the cluster answered.
	Answered bool     `json:"answered"`
	Reasons  []Reason `json:"reasons"` // why it is not healthy, worst first; warnings too
	// Unknown is what could not be found out.
	Unknown    []Unknown   `json:"unknown"`
	FrontDoor  *FrontDoor  `json:"frontDoor,omitempty"` // nil: each master's own balancer is the front door
	Masters    []Master    `json:"masters"`
	Etcd       Etcd        `json:"etcd"`
	APIServers []APIServer `json:"apiServers"`
	Singletons []Singleton `json:"singletons"`
	Balancers  []Balancer  `json:"balancers"`
	// Dev says that this is a `hactl dev` cluster, and DevDir where it lies if not
	// at the usual place. They only change the hints.
	Dev    bool   `json:"dev,omitempty"`
	DevDir string `json:"devDir,omitempty"`
}

// Level is how much a reason weighs.
type Level string

// The levels, from light to heavy.
const (
	Warning       Level = "warning"  // look at it soon; the verdict stays
	LevelDegraded Level = "degraded" // the verdict is at least degraded
	LevelDown     Level = "down"     // the verdict is down
)

// Reason is one cause of the verdict.
type Reason struct {
	Level  Level  `json:"level"`
	Code   string `json:"code"`   // one of the Code constants; stable
	Object string `json:"object"` // what it is about: "etcd", "m2", "m2/kube-apiserver", "kube-scheduler", …
	Text   string `json:"text"`   // a sentence for people
	// Hint is the next command to type; empty where there is none.
	Hint string `json:"hint,omitempty"`
}

// Unknown is something that could not be found out, and why.
type Unknown struct {
	Object string `json:"object"` // as in Reason
	What   string `json:"what"`   // "processes", "certificates", …
	Why    string `json:"why"`
}

// FrontDoor is the one address that clients use, where there is one.
type FrontDoor struct {
	Address string  `json:"address"` // host:port
	Serving Answer  `json:"serving"` // an API server answered /readyz with 200 through it
	Why     string  `json:"why,omitempty"`
	Latency Seconds `json:"latencySeconds,omitempty"` // of that request
}

// Seconds is a length of time in a report; JSON has it as a number.
type Seconds float64

// In converts a duration.
func In(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// Duration converts back.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Master is one machine of the control plane.
type Master struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Agent   Agent  `json:"agent"`
	// ProcessesFrom says who told Processes: "agent", "supervisor" when the agent
	// did not answer, or empty when nobody did.
	ProcessesFrom string        `json:"processesFrom,omitempty"`
	Processes     []Process     `json:"processes"`
	Certificates  []Certificate `json:"certificates"`
	Peers         []Peer        `json:"peers"` // the masters as this one's agent sees them by gossip
	Watchdog      *Watchdog     `json:"watchdog,omitempty"`
	// Rendezvous says whether machines can join here; nil: nobody told.
	Rendezvous *Rendezvous `json:"rendezvous,omitempty"`
}

// Rendezvous is the port of a master where new machines meet the cluster. It is open
// while the token is good.
type Rendezvous struct {
	Open bool   `json:"open"`
	Why  string `json:"why,omitempty"` // when it is not open
}

// Agent is what is known of a master's hactl agent.
type Agent struct {
	Reachable bool   `json:"reachable"`
	Error     string `json:"error,omitempty"` // why it is not reachable
	Version   string `json:"version,omitempty"`
	// Skew is the agent's clock minus this machine's, as far as it is certain: what
	// half a round trip can explain is taken off.
	Skew    Seconds `json:"skewSeconds,omitempty"`
	Latency Seconds `json:"latencySeconds,omitempty"`
}

// Process is one supervised process. Its fields are those of workload.State,
// so that one converts to the other.
type Process struct {
	Name     string    `json:"name"`
	Active   string    `json:"active"` // active, activating, deactivating, inactive, failed
	Status   string    `json:"status"` // its own words
	MainPID  int       `json:"mainPID"`
	Since    time.Time `json:"since"`    // of Active
	Restarts int       `json:"restarts"` // since its supervisor started
	LastExit string    `json:"lastExit"` // why the process before this one ended
}

// Certificate is one certificate file of a master.
type Certificate struct {
	File      string    `json:"file"`              // relative to the folder of certificates, or a kubeconfig's path
	Subject   string    `json:"subject,omitempty"` // its common name
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	DaysLeft  int       `json:"daysLeft"`        // whole days, negative when expired; Judge sets it
	Error     string    `json:"error,omitempty"` // why it could not be read
}

// Peer is a master as another one's gossip sees it.
type Peer struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	State   string `json:"state"` // alive, suspect (counts as alive), dead, left
}

// Watchdog is what a master's watchdog is doing.
type Watchdog struct {
	Paused  bool          `json:"paused"`
	Targets []WatchTarget `json:"targets"`
	// Marked says why this host has given itself up; empty: it has not.
	Marked string `json:"marked,omitempty"`
	// Notices are what it cannot heal and people must know.
	Notices []WatchNotice `json:"notices,omitempty"`
}

// WatchNotice is something about a host that needs a person.
type WatchNotice struct {
	Name  string    `json:"name"` // "disk:/var/lib/hactl/etcd", "clock", …
	Code  string    `json:"code"` // the reason's code in the report
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
}

// WatchTarget is one process that a watchdog watches.
type WatchTarget struct {
	Name  string `json:"name"`
	State string `json:"state"` // what the watchdog thinks of it: ok, failing, held, …
	// Held says that the watchdog would restart it and may not: budget spent,
	// another master restarting, quorum at stake.
	Held   bool   `json:"held"`
	Reason string `json:"reason,omitempty"` // of the last decision
	Paused bool   `json:"paused,omitempty"` // alone, while the others are not
}

// Node is what one master's agent tells: the answer to GET /v1/node.
type Node struct {
	Name         string        `json:"name"`
	Address      string        `json:"address"`
	Version      string        `json:"version"`
	Time         time.Time     `json:"time"` // the agent's clock, taken as late as possible
	Processes    []Process     `json:"processes"`
	Balancer     *LocalLB      `json:"balancer,omitempty"`
	Certificates []Certificate `json:"certificates"`
	Peers        []Peer        `json:"peers"`
	Watchdog     *Watchdog     `json:"watchdog,omitempty"`
	Rendezvous   *Rendezvous   `json:"rendezvous,omitempty"`
	// Errors says, by section ("processes", "balancer", "certificates", "gossip",
	// "watchdog"), why one is missing.
	Errors map[string]string `json:"errors,omitempty"`
}

// LocalLB is what a balancer says about itself.
type LocalLB struct {
	Backends    []Backend `json:"backends"`
	Connections int       `json:"connections"` // open now
}
