// Package leasetest has a lease.Lock in memory, and the suite that every
// lease.Lock must pass.
package leasetest
