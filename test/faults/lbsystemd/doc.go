// Package lbsystemd restarts, kills and upgrades the balancer as a unit of a real
// systemd, with its socket unit, while clients connect all the time.
//
//	go test -tags lab -count=1 ./test/faults/lbsystemd     as root, after make build
package lbsystemd
