package status

import (
	"reflect"
	"slices"
)

// Same tells whether two judged reports say the same to a person: the verdict,
// the reasons, who answers, who leads, who holds. Times, latencies, indexes,
// sizes and numbers of connections may differ. A watcher prints a report when
// it is not the Same as the one before.
func Same(a, b *Report) bool {
	return a.Verdict == b.Verdict &&
		slices.EqualFunc(a.Reasons, b.Reasons, func(x, y Reason) bool { return x.Code == y.Code && x.Object == y.Object }) &&
		slices.EqualFunc(a.Unknown, b.Unknown, func(x, y Unknown) bool { return x.Object == y.Object && x.What == y.What }) &&
		a.Etcd.Leader == b.Etcd.Leader && a.Etcd.Term == b.Etcd.Term &&
		slices.EqualFunc(a.Etcd.Members, b.Etcd.Members, func(x, y Member) bool {
			return x.Name == y.Name && x.ID == y.ID && x.Role == y.Role && x.Reachable == y.Reachable
		}) &&
		slices.EqualFunc(a.APIServers, b.APIServers, func(x, y APIServer) bool { return x.Master == y.Master && x.Ready == y.Ready }) &&
		slices.EqualFunc(a.Singletons, b.Singletons, sameSingleton) &&
		slices.EqualFunc(a.Balancers, b.Balancers, func(x, y Balancer) bool {
			return x.Name == y.Name && x.Serving == y.Serving && slices.EqualFunc(x.Backends, y.Backends, func(k, l Backend) bool {
				return k.Name == l.Name && k.State == l.State
			})
		}) &&
		slices.EqualFunc(a.Masters, b.Masters, sameMaster)
}

func sameSingleton(a, b Singleton) bool {
	return a.Name == b.Name && a.Known == b.Known && a.Holder == b.Holder && a.Token == b.Token && a.Paused == b.Paused && a.MoveTo == b.MoveTo &&
		slices.Equal(a.Waiting, b.Waiting)
}

func sameMaster(a, b Master) bool {
	return a.Name == b.Name && a.Agent.Reachable == b.Agent.Reachable &&
		slices.EqualFunc(a.Processes, b.Processes, func(x, y Process) bool {
			return x.Name == y.Name && x.Active == y.Active && x.MainPID == y.MainPID && x.Restarts == y.Restarts
		}) &&
		reflect.DeepEqual(a.Watchdog, b.Watchdog) && reflect.DeepEqual(a.Rendezvous, b.Rendezvous)
}
