// Package token keeps in etcd which token of a running cluster is good, so that
// one command on any master changes it on all.
//
//	hactl token rotate ──seal──▶ etcd /hactl/v1/token ──watch, open──▶ every agent: its token file
//
// What holds:
//
//   - etcd, and so every snapshot of it, holds the token only sealed (AES-256-GCM,
//     a key derived from the gossip's, which is on the masters' disks alone).
//   - The key is the truth: a token that it does not name is not good, whatever a
//     master that was off meanwhile has in its file. Without the key, nothing was
//     ever rotated, and the file counts.
//
// What it does not do: it writes no file, and knows no rendezvous.
package token
