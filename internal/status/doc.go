// Package status says in one verdict how a cluster is, and why.
//
//	facts (collect, api) ──▶ Report ──▶ Judge ──▶ verdict + reasons ──▶ table, wide, json, yaml
//
// The package holds the types, the rules and the rendering. It asks nothing
// and nobody: a Report is filled by internal/collect, Judge is a pure function
// of it, and every Render function writes what it is given. So each rule has a
// test that needs no cluster.
//
// Two invariants:
//
//   - What could not be asked is Unknown, with the reason, and unknown is never
//     healthy.
//   - Every reason names its object and, where there is one, the next command.
//
// The JSON and YAML forms are a contract (docs/status.md) with golden files
// under testdata. Fields are added, never renamed.
package status
