package status

import (
	"slices"
	"strings"
	"time"
)

func (j *judge) apiServers() {
	if j.noAPIServer() {
		var whys []string
		for _, a := range j.r.APIServers {
			whys = append(whys, a.Master+": "+orElse(a.Why, "not ready"))
		}
		hint := j.hint.anyProcess(j.r, "kube-apiserver")
		if j.r.Etcd.Quorum == No {
			hint = "" // they wait for etcd, whose reason has the way out
		}
		j.add(LevelDown, CodeAPIServerNone, "apiserver", hint,
			"no API server is ready: %s", orElse(strings.Join(whys, "; "), "there is none"))
		return
	}
	for _, a := range j.r.APIServers {
		object := a.Master + "/kube-apiserver"
		switch {
		case a.Ready == Yes, j.lost[a.Master]:
		case a.Ready != No:
			j.add(LevelDegraded, CodeAPIServerUnknown, object, "", "whether the API server of %s is ready is unknown%s", a.Master, because(a.Why))
		case a.Live == Yes:
			j.add(LevelDegraded, CodeAPIServerNotReady, object, j.hint.process(a.Master, "kube-apiserver"),
				"the API server of %s lives but is not ready%s", a.Master, because(a.Why))
		default:
			j.add(LevelDegraded, CodeAPIServerNotReady, object, j.hint.process(a.Master, "kube-apiserver"),
				"the API server of %s does not serve%s", a.Master, because(a.Why))
		}
	}
}

// frontDoor: where there is one address for all clients, the cluster serves as
// long as that does; else as long as one balancer does.
func (j *judge) frontDoor() {
	if f := j.r.FrontDoor; f != nil {
		switch {
		case f.Serving == Yes:
		case f.Serving == No && f.Latency > 0 && j.oneReady():
			// It passes connections on; to which API server, it will find out.
			j.add(LevelDegraded, CodeFrontDoorSick, "front door", "",
				"the front door %s leads to an API server that is not ready%s, though there is one that is", f.Address, because(f.Why))
		case f.Serving == No:
			hint := j.hint.frontDoor()
			if j.noAPIServer() {
				hint = "" // it has nothing to pass on to, which is a reason itself
			}
			j.add(LevelDown, CodeFrontDoor, "front door", hint,
				"nothing is served at the front door %s%s", f.Address, because(f.Why))
		default:
			j.add(LevelDegraded, CodeFrontDoorUnknown, "front door", "", "whether the front door %s serves is unknown%s", f.Address, because(f.Why))
		}
	}
	if !j.noBalancer() {
		return
	}
	var whys []string
	for _, b := range j.r.Balancers {
		whys = append(whys, b.Name+": "+orElse(b.Why, "not serving"))
	}
	hint := j.hint.anyProcess(j.r, "hactl-lb")
	if j.noAPIServer() {
		hint = "" // they have nothing to pass on to, which is a reason itself
	}
	if j.r.FrontDoor != nil {
		if j.noAPIServer() {
			return
		}
		j.add(LevelDegraded, CodeBalancerNotServing, "balancers", hint, "no master's balancer serves: %s", strings.Join(whys, "; "))
		return
	}
	j.add(LevelDown, CodeFrontDoor, "front door", hint,
		"no balancer serves: %s", orElse(strings.Join(whys, "; "), "there is none"))
}

func (j *judge) oneReady() bool {
	return slices.ContainsFunc(j.r.APIServers, func(a APIServer) bool { return a.Ready == Yes })
}

func (j *judge) noBalancer() bool {
	return !slices.ContainsFunc(j.r.Balancers, func(b Balancer) bool { return b.Serving != No })
}

func (j *judge) noAPIServer() bool {
	return !slices.ContainsFunc(j.r.APIServers, func(a APIServer) bool { return a.Ready != No })
}

func (j *judge) balancers() {
	for _, b := range j.r.Balancers {
		object := b.Name + "/hactl-lb"
		switch {
		case b.Serving == Yes, j.lost[b.Name]:
		case b.Serving == No && j.noBalancer(): // said for all of them
		case b.Serving == No:
			j.add(LevelDegraded, CodeBalancerNotServing, object, j.hint.process(b.Name, "hactl-lb"),
				"the balancer of %s serves nothing%s", b.Name, because(b.Why))
		default:
			j.add(LevelDegraded, CodeBalancerUnknown, object, "", "whether the balancer of %s serves is unknown%s", b.Name, because(b.Why))
		}
		for _, k := range b.Backends {
			switch {
			case k.State == BackendReady, k.State == BackendRemoved:
			case k.State == BackendDrained:
				j.add(Warning, CodeBackendDrained, object, "hactl lb undrain "+k.Name,
					"%s was drained in the balancer of %s: it gets nothing new", k.Name, b.Name)
			case j.apiServerReady(k):
				j.add(LevelDegraded, CodeBalancerBackend, object, "hactl lb status",
					"the balancer of %s does not use the API server of %s (%s), which is ready%s", b.Name, k.Name, k.State, because(k.Why))
			}
		}
	}
}

// apiServerReady tells whether we saw the backend ready ourselves.
func (j *judge) apiServerReady(k Backend) bool {
	return slices.ContainsFunc(j.r.APIServers, func(a APIServer) bool {
		return (a.Master == k.Name || a.Address == k.Address) && a.Ready == Yes
	})
}

func (j *judge) singletons() {
	for _, s := range j.r.Singletons {
		switch {
		case s.Known != Linearizable:
			was := ""
			if s.Known == Stale && s.Holder != "" {
				was = "; last known: " + s.Holder
			}
			j.add(LevelDegraded, CodeSingletonUnknown, s.Name, "", "who holds %s is unknown: etcd cannot be read reliably%s", s.Name, was)
		case s.Paused:
			j.add(Warning, CodeSingletonPaused, s.Name, "hactl singleton resume "+s.Name, "%s is paused", s.Name)
		case s.Holder == "":
			j.add(LevelDegraded, CodeSingletonNoHolder, s.Name, j.hint.anyProcess(j.r, "podmaster@"+s.Name), "nobody holds %s: it does not run", s.Name)
		case j.silence(&s) > 2*s.TTL.Duration()+SilentSlack:
			j.add(LevelDegraded, CodeSingletonSilent, s.Name, j.hint.process(s.Holder, "podmaster@"+s.Name),
				"%s of %s was last renewed %s ago, and nobody took over", s.Name, s.Holder, age(j.silence(&s)))
		case s.Waiting != nil && len(s.Waiting) == 0 && len(j.r.Masters) > 1:
			j.add(LevelDegraded, CodeSingletonNoStandby, s.Name, j.hint.anyProcess(j.r, "podmaster@"+s.Name),
				"%s runs on %s and nobody would take over", s.Name, s.Holder)
		}
	}
}

// silence is how long ago the holder last renewed its term, by its own clock
// where we know how far that is off.
func (j *judge) silence(s *Singleton) time.Duration {
	if s.Renewed.IsZero() || s.TTL <= 0 {
		return 0
	}
	now := j.r.Time
	for _, m := range j.r.Masters {
		if m.Name == s.Holder {
			now = now.Add(m.Agent.Skew.Duration())
		}
	}
	return now.Sub(s.Renewed)
}
