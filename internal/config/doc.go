// Package config reads the cluster's configuration: strictly, with defaults,
// and with every fault reported at once by its path.
//
//	cluster.yaml ──▶ decode (strict, keeps lines) ─┐
//	cluster.yaml.d/*.yaml ──▶ merged over it ──────┼──▶ validate ──▶ *Cluster
//	Default() ──▶ what no file names ──────────────┘        └──▶ every fault, file:line and path
//
// What holds for a Cluster that Load returned: every field has a value or is
// optional, every name and address is unique, no two things on one master want
// the same port, and the timings fit together. What it does not do: it looks at
// no machine (whether a file exists or a port is free is preflight's), resolves
// no names, and does not forbid an even number of masters, since that is for the
// user to insist on (CheckMasterCount).
package config
