// Package config reads the cluster's configuration: strictly, with defaults,
// and with every fault reported at once by its path.
package config
