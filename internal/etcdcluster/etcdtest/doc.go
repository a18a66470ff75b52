// Package etcdtest runs real etcd clusters for tests: in the test's own process
// (Start), or each member as a process of its own that can be killed and frozen
// (StartProcesses).
//
// Every member listens on a loopback address of its own, which is claimed for as
// long as the test runs, so that tests in parallel, of one process or of several,
// never meet. The address stays the member's over Stop, Kill and Restart.
//
// Unless Options.Fsync is set the members do not sync their files: a test does
// not lose its power, and a killed process loses nothing of what it has written.
package etcdtest
