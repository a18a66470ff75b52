// Package rendezvous is where machines that hold a cluster's token meet: those
// that run hactl bootstrap or join, and the agents of a running cluster.
//
//	hactl bootstrap m3 ──card, config hash──▶ ◀──card── hactl agent m1
//	                   ──ask: config, secrets─▶ ◀─sealed answer──
//	      encrypted UDP and TCP, port 7947, with a key derived from the token
//
// Each says of itself what it is (its Card) to everybody it meets, and answers two
// questions: what its configuration is, and what the cluster's secrets are. What
// to make of it is decided elsewhere.
//
// What holds:
//
//   - Who has no token, or another one, or is of another cluster, learns nothing
//     and is not listened to: every message is encrypted and authenticated
//     (AES-GCM) with the cluster's name as its label.
//   - Secrets go only to a machine whose name and address are in the holder's own
//     configuration, to that very address, and only if its configuration has the
//     same hash; over TCP; and sealed to a key that exists for this one question
//     (X25519), so that a recorded exchange tells nothing to whoever gets the
//     token later.
//   - Two machines of one name, or one address, learn of each other.
//   - Every answer is bounded in size and time. What cannot be read is dropped.
//
// What it does not do: it decides nothing, writes no file, and knows no etcd. A
// card is what a machine believed when it said it.
package rendezvous
