// Package mesh sets memberlist up for a handful of masters: encrypted, with the
// cluster's name as the label, quick to notice a loss, and quiet in the log.
// Gossip and the rendezvous are each a mesh of their own, with keys and ports of
// their own.
package mesh
