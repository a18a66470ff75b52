// Package workload says what a supervised process is and what a supervisor can
// do with it. The supervisors are its subpackages: child runs the processes
// itself (hactl dev), systemd steers units over D-Bus (real masters).
package workload
