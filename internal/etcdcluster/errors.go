package etcdcluster

import "errors"

var (
	// ErrNoIntent is returned when the machine has neither data nor an intent:
	// nobody told it to found or join a cluster.
	ErrNoIntent = errors.New("this machine was never told to found or join a cluster")
	// ErrDataLost is returned when the machine was a member and its data are
	// gone. Under its old id it would vote although it forgot its votes.
	ErrDataLost = errors.New("the data of this etcd member are lost")
	// ErrOtherCluster is returned when the data or the intent belong to another
	// cluster than the configuration names.
	ErrOtherCluster = errors.New("the etcd data belong to another cluster")
	// ErrOtherMember is returned when the data or the intent are another
	// member's, for instance a copied folder.
	ErrOtherMember = errors.New("the etcd data belong to another member")
	// ErrRemoved is returned when the member was removed from its cluster.
	ErrRemoved = errors.New("this member was removed from its cluster")
	// ErrCorrupt is returned when a restarted member's data differ from the
	// others' at the same revision.
	ErrCorrupt = errors.New("the data of this member differ from the others'")
	// ErrInUse is returned when another process holds the data folder.
	ErrInUse = errors.New("the etcd data folder is in use")
	// ErrIntentExists is returned by WriteIntent when the machine already has an
	// intent that is used up or says something else, or has data.
	ErrIntentExists = errors.New("this machine already belongs to a cluster")
	// ErrCloseTimeout is returned by Run when the member did not close in time.
	// The process should exit; what was answered to clients is on the disk.
	ErrCloseTimeout = errors.New("etcd did not close in time")
	// ErrStopped is returned by Run when the server ended by itself.
	ErrStopped = errors.New("etcd stopped by itself")
	// ErrRefused is wrapped by what Guard and Plan return for a change that
	// would put the quorum at risk.
	ErrRefused = errors.New("refused")
	// ErrNoMember is returned when no member has the given name or id.
	ErrNoMember = errors.New("no such member")
	// ErrUnreachable is returned when no member of the cluster answers.
	ErrUnreachable = errors.New("no etcd member answers")
)
