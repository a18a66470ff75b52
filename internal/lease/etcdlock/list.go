package etcdlock

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/hactl/hactl/internal/lease"
)

// Info is what etcd says of one singleton. It is what `hactl singleton ls -o
// json` prints; times are the writers' wall clocks.
type Info struct {
	Name    string        `json:"name"`
	Holder  string        `json:"holder"`          // empty: nobody
	Address string        `json:"address"`         // the holder's
	Token   int64         `json:"token"`           // of the present term, or of the last one
	Since   time.Time     `json:"since"`           // of the term, or of its end
	TTL     time.Duration `json:"ttl"`             // of the present or last term, in nanoseconds
	Beat    int64         `json:"beat"`            // changes with every renewal: a holder whose beat stands still is dead
	Renewed time.Time     `json:"renewed"`         // when the holder sent its last renewal
	Paused  bool          `json:"paused"`          // by `hactl singleton pause`
	MoveTo  string        `json:"moveTo"`          // a hand-over that was ordered and not yet done
	Last    string        `json:"last,omitempty"`  // who held it last, when nobody does
	Ended   string        `json:"ended,omitempty"` // why that term ended
	Waiting []Candidate   `json:"waiting"`         // all candidates but the holder
	Delay   time.Duration `json:"-"`               // what others wait beyond the TTL when the present term runs out
	Rev     int64         `json:"-"`               // of the last take, renewal or end: orders the signs of life of all singletons
}

// List reads every singleton below Root; one whose key is a path elsewhere is not among
// them. With serializable the nearest member
// answers from what it has, also without quorum, and possibly stale.
func List(ctx context.Context, c *Client, serializable bool) ([]Info, error) {
	return list(ctx, c, Root, serializable)
}

// Get is List for one singleton; Info.Name is empty when etcd knows nothing of it.
func Get(ctx context.Context, c *Client, name string, serializable bool) (Info, error) {
	prefix, err := Prefix(name)
	if err != nil {
		return Info{}, err
	}
	infos, err := list(ctx, c, prefix, serializable)
	if err != nil {
		return Info{}, err
	}
	// Another singleton may lie in a folder below.
	i := slices.IndexFunc(infos, func(i Info) bool { return i.Name == nameOf(prefix) })
	if i < 0 {
		return Info{}, nil
	}
	return infos[i], nil
}

func list(ctx context.Context, c *Client, prefix string, serializable bool) ([]Info, error) {
	resp, err := ask(ctx, c, false, func(ctx context.Context, ep *endpoint) (*etcdserverpb.RangeResponse, error) {
		return ep.kv.Range(ctx, &etcdserverpb.RangeRequest{
			Key: []byte(prefix), RangeEnd: []byte(prefix[:len(prefix)-1] + "0"), // "0" follows "/"
			Serializable: serializable,
		})
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: list singletons: %w", err)
	}
	return Parse(resp.Kvs)
}

// Parse makes Infos of all keys below Root, or below one singleton's folder, for
// callers that read them with a client of their own.
func Parse(kvs []*mvccpb.KeyValue) ([]Info, error) {
	byName := map[string]*Info{}
	for _, kv := range kvs {
		name, key, ok := split(string(kv.Key))
		if !ok {
			continue
		}
		info := byName[name]
		if info == nil {
			info = &Info{Name: name, Waiting: []Candidate{}}
			byName[name] = info
		}
		if err := info.apply(key, kv); err != nil {
			return nil, fmt.Errorf("singleton %s: %w", name, err)
		}
	}
	infos := make([]Info, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		info := *byName[name]
		info.Waiting = slices.DeleteFunc(info.Waiting, func(c Candidate) bool { return c.Name == info.Holder })
		slices.SortFunc(info.Waiting, func(a, b Candidate) int {
			if a.Priority != b.Priority {
				return b.Priority - a.Priority
			}
			return strings.Compare(a.Name, b.Name)
		})
		infos = append(infos, info)
	}
	return infos, nil
}

// split takes a full key apart: PREFIX/NAME/term, …/waiting/WHO.
func split(full string) (name, key string, ok bool) {
	for _, k := range []string{keyTerm, keyBeat, keyOrder} {
		if folder, found := strings.CutSuffix(full, "/"+k); found {
			return nameOf(folder), k, true
		}
	}
	if i := strings.LastIndex(full, "/"+keyWaiting); i > 0 {
		return nameOf(full[:i]), full[i+1:], true
	}
	return "", "", false
}

func (info *Info) apply(key string, kv *mvccpb.KeyValue) error {
	var rec lease.Record
	if err := apply(&rec, key, kv, false); err != nil {
		return err
	}
	if key == keyTerm || key == keyBeat {
		info.Rev = max(info.Rev, kv.ModRevision)
	}
	switch key {
	case keyTerm:
		var v termValue
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		info.TTL, info.Token, info.Since = rec.TTL, kv.ModRevision, v.Since
		if v.Ended != nil {
			info.Token, info.Since, info.Last, info.Ended = v.Ended.Token, v.Ended.At, v.Holder, v.Ended.Reason
			break
		}
		info.Holder, info.Address, info.Delay = v.Holder, v.Address, rec.LockDelay
	case keyBeat:
		var v beatValue
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return err
		}
		info.Beat, info.Renewed = kv.ModRevision, v.At
	case keyOrder:
		info.Paused, info.MoveTo = rec.Paused, rec.MoveTo
	default:
		if c, ok := parseCandidate(kv); ok {
			info.Waiting = append(info.Waiting, c)
		}
	}
	return nil
}
