package config

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

func (k *checker) singletons(c *Cluster) {
	least := 2 * time.Second
	if c.Etcd.Election <= maxElection { // else that is the fault
		least = max(least, MinTTL(c.Etcd.Heartbeat, c.Etcd.Election))
	}
	names := map[string]int{}
	for i, s := range c.Singletons {
		at := fmt.Sprintf("singletons[%d]", i)
		k.label(at+".name", s.Name, "the singleton's name")
		if first, twice := names[s.Name]; twice && s.Name != "" {
			k.bad(at+".name", s.Name, "same as singletons[%d].name", first)
		} else {
			names[s.Name] = i
		}
		switch {
		case s.TTL < least:
			k.bad(at+".ttl", formatDuration(s.TTL), "at least %s, to outlast an election of etcd's (one and a half times etcd.election %s, in whole seconds, and at least 2s)", least, formatDuration(c.Etcd.Election))
		case s.TTL%time.Second != 0:
			k.bad(at+".ttl", formatDuration(s.TTL), "want whole seconds: %s or %s", s.TTL.Truncate(time.Second), s.TTL.Truncate(time.Second)+time.Second)
		}
		k.singletonCommand(at, s)
		if s.HealthURL != "" {
			if u, err := url.Parse(s.HealthURL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
				k.bad(at+".healthURL", s.HealthURL, "must be an http:// or https:// URL")
			}
		}
		k.extraArgs(at+".extraArgs", s.ExtraArgs)
	}
}

// singletonCommand checks that it is clear what a singleton runs.
func (k *checker) singletonCommand(at string, s Singleton) {
	known := []string{KubeScheduler, KubeControllerManager}
	switch {
	case slices.Contains(known, s.Name):
		if len(s.Command) > 0 {
			k.bad(at+".command", strings.Join(s.Command, " "), "%s brings its own command; use extraArgs, or give it another name", s.Name)
		}
		return
	case len(s.Command) == 0 && s.Name != "":
		hint := ""
		if near := nearest(s.Name, known); near != "" {
			hint = "; or did you mean " + near + "?"
		}
		k.bad(at+".command", "", "missing: hactl knows how to run only %s%s", strings.Join(known, " and "), hint)
	case len(s.Command) > 0 && !path.IsAbs(s.Command[0]):
		k.bad(at+".command[0]", s.Command[0], "must be the absolute path of a program")
	}
	if len(s.ExtraArgs) > 0 {
		k.bad(at+".extraArgs", "", "only for %s; put them into command", strings.Join(known, " and "))
	}
}

// backupURL checks a place for snapshots.
func (k *checker) backupURL(field, to string) {
	u, err := url.Parse(to)
	switch {
	case err != nil || u.Scheme == "":
		k.bad(field, to, "must be a URL: dir:///folder or s3://bucket/prefix")
	case u.Scheme == "dir":
		if u.Host != "" || !path.IsAbs(u.Path) || path.Clean(u.Path) == "/" {
			k.bad(field, to, "must be dir:// and an absolute folder, three slashes in all: dir:///var/backups/hactl")
		}
	case u.Scheme == "s3":
		if u.Host == "" {
			k.bad(field, to, "must name the bucket: s3://bucket/prefix")
		}
	default:
		k.bad(field, to, "unknown kind of place %s:; known are dir: and s3:", u.Scheme)
	}
}

// ports checks that they are ports and that no two things on one master want
// the same. Masters on other machines do not matter; those that share a
// machine have addresses of their own.
func (k *checker) ports(c *Cluster) {
	masters := c.Masters
	if len(masters) == 0 {
		masters = []Master{{Address: "192.0.2.1"}} // discovery: any will do
	}
	told := map[string]bool{}
	for _, p := range c.Ports(masters[0]) {
		if p.Port < 1 || p.Port > 65535 {
			k.bad(p.Path, p.Port, "must be a port from 1 to 65535")
			told[p.Path] = true
		}
	}
	for _, m := range masters {
		// One table for a master's own address and its loopback address: the
		// API server may listen on all of them.
		users := map[int]Port{}
		for _, p := range c.Ports(m) {
			first, taken := users[p.Port]
			if !taken {
				users[p.Port] = p
				continue
			}
			field, other := p, first
			if field.Path == "" {
				field, other = first, p
			}
			if field.Path == "" || told[field.Path] {
				continue
			}
			told[field.Path] = true
			with := other.User
			if other.Path != "" {
				with += " (" + other.Path + ")"
			}
			k.bad(field.Path, field.Port, "%s has this port already", with)
		}
	}
}
