package etcdcluster

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/hactl/hactl/internal/exitcode"
)

func TestDecideStart(t *testing.T) {
	cfg := Config{
		Name: "m1", Cluster: "prod", DataDir: "/data", StateDir: "/state",
		ClientURL: "https://10.0.0.1:2379", PeerURL: "https://10.0.0.1:2380",
	}
	peers := []Peer{{"m1", cfg.PeerURL}, {"m2", "https://10.0.0.2:2380"}, {"m3", "https://10.0.0.3:2380"}}
	found := NewIntent("prod", "m1", peers)
	id, clusterID, err := found.ids()
	if err != nil {
		t.Fatal(err)
	}
	with := func(f func(*Intent)) *Intent {
		in := found
		f(&in)
		return &in
	}
	used := with(func(in *Intent) { in.State, in.MemberID, in.ClusterID = Used, idString(id), idString(clusterID) })
	join := with(func(in *Intent) { in.Action, in.MemberID, in.ClusterID = Join, "aa", "cc" })
	whole := dataState{wal: true, db: true, memberID: id, clusterID: clusterID, name: "m1", peerURLs: []string{cfg.PeerURL}}
	data := func(f func(*dataState)) dataState {
		d := whole
		f(&d)
		return d
	}
	const (
		fresh = embed.ClusterStateFlagNew
		exist = embed.ClusterStateFlagExisting
	)
	for _, tt := range []struct {
		name   string
		in     *Intent
		data   dataState
		refuse error
		state  string
		note   string // in the notes
	}{
		{name: "told to found, empty", in: &found, state: fresh},
		{name: "told to join, empty", in: join, state: exist},
		{name: "restart", in: used, data: whole, state: exist},
		{name: "restart before the intent was recorded as used", in: &found, data: whole, state: exist},
		{name: "restart, and the database does not know its name yet", in: used, data: data(func(d *dataState) { d.name, d.peerURLs = "", nil }), state: exist},
		{name: "data without an intent are adopted", data: whole, state: exist, note: "adopted"},
		{name: "moved to another address", in: used, data: data(func(d *dataState) { d.peerURLs = []string{"https://10.0.0.9:2380"} }), state: exist, note: "10.0.0.9"},
		{name: "first start interrupted before the log", in: &found, data: dataState{db: true}, state: fresh},

		{name: "never told anything", refuse: ErrNoIntent},
		{name: "data lost", in: used, refuse: ErrDataLost},
		{name: "data lost after joining", in: with(func(in *Intent) { *in = *join; in.State = Used }), refuse: ErrDataLost},
		{name: "log lost", in: used, data: dataState{db: true}, refuse: ErrDataLost},
		{name: "log lost, no intent", data: dataState{db: true}, refuse: ErrDataLost},
		{name: "database lost", in: used, data: data(func(d *dataState) { d.db = false }), refuse: ErrDataLost},
		{name: "database lost, intent not yet used", in: &found, data: data(func(d *dataState) { d.db = false }), refuse: ErrDataLost},
		{name: "intent for another cluster", in: with(func(in *Intent) { in.Cluster = "test" }), refuse: ErrOtherCluster},
		{name: "data of another cluster", in: used, data: data(func(d *dataState) { d.clusterID++ }), refuse: ErrOtherCluster},
		{name: "intent for another member", in: with(func(in *Intent) { in.Member = "m2" }), refuse: ErrOtherMember},
		{name: "data of another member by id", in: used, data: data(func(d *dataState) { d.memberID++ }), refuse: ErrOtherMember},
		{name: "data of another member by name", in: used, data: data(func(d *dataState) { d.name = "m2" }), refuse: ErrOtherMember},
		{name: "copied data, no intent", data: data(func(d *dataState) { d.name = "m2" }), refuse: ErrOtherMember},
		{name: "intent with another address", in: with(func(in *Intent) { in.Peers = []Peer{{"m1", "https://10.0.0.7:2380"}} }), refuse: ErrOtherMember},
		{name: "removed, says the intent", in: with(func(in *Intent) { *in = *used; in.State = Removed }), data: whole, refuse: ErrRemoved},
		{name: "removed, says the intent, and cleared", in: with(func(in *Intent) { *in = *used; in.State = Removed }), refuse: ErrRemoved},
		{name: "removed, say the data", in: used, data: data(func(d *dataState) { d.removed = true }), refuse: ErrRemoved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := decideStart(cfg, tt.in, tt.data)
			if tt.refuse != nil {
				var coded *exitcode.Error
				if !errors.Is(err, tt.refuse) || !errors.As(err, &coded) || coded.Code != exitcode.Refused || coded.Hint == "" {
					t.Fatalf("got %v, %+v; want a refusal with a way out: %v", err, coded, tt.refuse)
				}
				return
			}
			if err != nil || p.state != tt.state {
				t.Fatalf("got %+v, %v; want to start with %q", p, err, tt.state)
			}
			if p.clearLeftover != (tt.data.db && !tt.data.wal) {
				t.Errorf("clearLeftover is %v", p.clearLeftover)
			}
			if notes := strings.Join(p.notes, "; "); !strings.Contains(notes, tt.note) || tt.note == "" && notes != "" {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
			if p.memberID == 0 || p.clusterID == 0 {
				t.Error("the ids are not known before")
			}
		})
	}
}

// Only one combination may ever found a cluster.
func TestOnlyAPendingIntentFounds(t *testing.T) {
	cfg := Config{Name: "m1", Cluster: "prod", PeerURL: "https://10.0.0.1:2380"}
	bools := []bool{false, true}
	for _, action := range []Action{"", Found, Join} {
		for _, state := range []State{Pending, Used, Removed} {
			for _, log := range bools {
				for _, db := range bools {
					var in *Intent
					if action != "" {
						i := NewIntent("prod", "m1", []Peer{{"m1", cfg.PeerURL}})
						i.Action, i.State, i.MemberID, i.ClusterID = action, state, "1", "2"
						in = &i
					}
					d := dataState{wal: log, db: db, memberID: 1, clusterID: 2}
					p, err := decideStart(cfg, in, d)
					founds := err == nil && p.state == embed.ClusterStateFlagNew
					may := action == Found && state == Pending && !log
					if founds != may {
						t.Errorf("intent %q %q, log %v, database %v: founds %v, may %v (%v)", action, state, log, db, founds, may, err)
					}
					starts := err == nil
					if starts && !log && state != Pending {
						t.Errorf("intent %q %q: starts without a log", action, state)
					}
				}
			}
		}
	}
}
