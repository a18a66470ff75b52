// Package preflight shows hactl preflight the faults that it is for, made for real
// on systemd hosts: an address that another host has too, a port taken, a disk
// too small, no D-Bus, an old installation in the way. Build tag lab.
package preflight
