package status

// The codes of reasons: stable, for scripts and alerts. docs/status.md has
// them with their levels.
const (
	CodeNothingAnswers    = "nothing-answers"    // no part of the cluster answered
	CodeMasterUnreachable = "master-unreachable" // nothing of a master answers; stands for the reasons of its parts
	CodeUnknown           = "unknown"            // all that answered is well, but something did not

	CodeEtcdNoQuorum        = "etcd-no-quorum"        // no write can be agreed on
	CodeEtcdUnknown         = "etcd-unknown"          // etcd could not be asked for its quorum
	CodeEtcdAlarm           = "etcd-alarm"            // NOSPACE or CORRUPT: etcd refuses requests
	CodeEtcdUnreachable     = "etcd-unreachable"      // a member does not answer
	CodeEtcdNoLeader        = "etcd-no-leader"        // a member answers but sees no leader
	CodeEtcdMemberMissing   = "etcd-member-missing"   // a master has no member
	CodeEtcdMemberForeign   = "etcd-member-foreign"   // a member belongs to no master
	CodeEtcdMemberUnstarted = "etcd-member-unstarted" // a member was added and never started
	CodeEtcdLearner         = "etcd-learner"          // a member does not vote yet
	CodeEtcdBehind          = "etcd-behind"           // a member's data are far behind the leader's
	CodeEtcdNoSpare         = "etcd-no-spare"         // the next lost voter ends quorum
	CodeEtcdDatabaseFull    = "etcd-database-full"    // a member's database nears its quota
	CodeEtcdVersions        = "etcd-versions"         // members of different versions

	CodeAPIServerNone     = "apiserver-none"      // no API server is ready
	CodeAPIServerNotReady = "apiserver-not-ready" // one is not
	CodeAPIServerUnknown  = "apiserver-unknown"   // one could not be asked

	CodeFrontDoor           = "front-door"             // nothing can be reached through the front door
	CodeFrontDoorSick       = "front-door-sick"        // it leads to an API server that is not ready, though there is one
	CodeFrontDoorUnknown    = "front-door-unknown"     // the front door could not be tried
	CodeBalancerNotServing  = "balancer-not-serving"   // one balancer serves nothing
	CodeBalancerUnknown     = "balancer-unknown"       // one could not be tried
	CodeBalancerBackend     = "balancer-backend"       // a balancer does not use an API server that is ready
	CodeBackendDrained      = "backend-drained"        // somebody drained a backend
	CodeSingletonNoHolder   = "singleton-no-holder"    // nobody runs it
	CodeSingletonSilent     = "singleton-silent"       // its holder stopped renewing and nobody took over
	CodeSingletonUnknown    = "singleton-unknown"      // nobody can say who runs it
	CodeSingletonNoStandby  = "singleton-no-standby"   // nobody would take over
	CodeSingletonPaused     = "singleton-paused"       // stopped on purpose
	CodeAgentUnreachable    = "agent-unreachable"      // a master's agent does not answer
	CodeAgentVersions       = "agent-versions"         // masters run different versions of hactl
	CodeClockSkew           = "clock-skew"             // a master's clock differs from this machine's
	CodeGossipLost          = "gossip-lost"            // a master does not see another that answers us
	CodeProcessNotActive    = "process-not-active"     // a process does not run, or not yet
	CodeProcessFlapping     = "process-flapping"       // a process was restarted again and again
	CodeWatchdogPaused      = "watchdog-paused"        // nobody restarts what hangs
	CodeMasterMarked        = "master-marked"          // a master that cannot be healed: others take its work
	CodeDiskLow             = "disk-low"               // a master's disk is nearly full
	CodeWatchdogHeld        = "watchdog-held"          // the watchdog would restart it and may not
	CodeCertificateExpired  = "certificate-expired"    // expired, or not valid yet
	CodeCertificateExpiring = "certificate-expiring"   // 30 days left or fewer
	CodeCertificateBroken   = "certificate-unreadable" // missing, or not a certificate
)
