package etcdlock

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/hactl/hactl/internal/lease"
)

// Root is where the singletons' keys lie.
const Root = "/hactl/singletons/"

var nameRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._@:-]*[A-Za-z0-9])?$`)

// Prefix returns the folder of a singleton's keys, with a slash at its end. A
// name that begins with a slash is a folder of the user's own.
func Prefix(name string) (string, error) {
	if strings.HasPrefix(name, "/") {
		clean := path.Clean(name)
		if clean == "/" || clean+"/" == Root {
			return "", fmt.Errorf("key %q: no name in it", name)
		}
		return clean + "/", nil
	}
	if name == "" {
		return "", errors.New("key: empty")
	}
	if len(name) > 200 || !nameRE.MatchString(name) {
		return "", fmt.Errorf("key %q: want letters, digits and . _ @ : - between them, at most 200, or an absolute path", name)
	}
	return Root + name + "/", nil
}

// nameOf is the one name of a folder of keys: a path only where no short name says it.
func nameOf(prefix string) string {
	prefix = strings.TrimSuffix(prefix, "/")
	if short, ok := strings.CutPrefix(prefix, Root); ok && nameRE.MatchString(short) {
		return short
	}
	return prefix
}

// The keys within a singleton's folder. The first three are watched as one range.
const (
	keyBeat    = "beat"
	keyOrder   = "order"
	keyTerm    = "term"
	keyWaiting = "waiting/"
)

// termValue is what lies at term. The times are for people only.
type termValue struct {
	Holder      string    `json:"holder"`
	Address     string    `json:"address,omitempty"`
	ID          string    `json:"id"`    // of the elector's run
	Claim       string    `json:"claim"` // of this very take: a copy of the request is known by it
	Priority    int       `json:"priority,omitempty"`
	TTLMillis   int64     `json:"ttlMillis"`
	DelayMillis int64     `json:"lockDelayMillis,omitempty"`
	Since       time.Time `json:"since"`
	Ended       *endValue `json:"ended,omitempty"`
}

type endValue struct {
	Token  int64     `json:"token"` // of the term that ended
	At     time.Time `json:"at"`
	Next   string    `json:"next,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

type beatValue struct {
	Seq int64     `json:"seq"`
	At  time.Time `json:"at"`
}

// orderValue is what lies at order.
type orderValue struct {
	Paused bool      `json:"paused,omitempty"`
	MoveTo string    `json:"moveTo,omitempty"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at"`
}

// apply changes rec by one key's new value, or its deletion (nil value).
func apply(rec *lease.Record, key string, kv *mvccpb.KeyValue, deleted bool) error {
	switch key {
	case keyBeat:
		rec.Beat = 0
		if !deleted {
			rec.Beat = kv.ModRevision
		}
	case keyTerm:
		rec.Token, rec.Ended, rec.Claim, rec.Release = 0, false, lease.Claim{}, lease.Release{}
		if !deleted {
			return applyTerm(rec, kv)
		}
	case keyOrder:
		rec.Order, rec.Paused, rec.MoveTo = 0, false, ""
		if !deleted {
			var v orderValue
			rec.Order = kv.ModRevision
			if err := json.Unmarshal(kv.Value, &v); err != nil {
				return fmt.Errorf("order at revision %d: %w", kv.ModRevision, err)
			}
			rec.Paused, rec.MoveTo = v.Paused, v.MoveTo
		}
	}
	return nil
}

func applyTerm(rec *lease.Record, kv *mvccpb.KeyValue) error {
	var v termValue
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return fmt.Errorf("term at revision %d: %w", kv.ModRevision, err)
	}
	if v.TTLMillis <= 0 {
		return fmt.Errorf("term at revision %d: ttlMillis %d", kv.ModRevision, v.TTLMillis)
	}
	rec.Token = kv.ModRevision
	rec.Claim = lease.Claim{
		ID: v.ID, Holder: v.Holder, Address: v.Address, Priority: v.Priority,
		TTL: time.Duration(v.TTLMillis) * time.Millisecond, LockDelay: time.Duration(v.DelayMillis) * time.Millisecond,
	}
	if v.Ended != nil {
		rec.Ended = true
		rec.Release = lease.Release{Next: v.Ended.Next, Reason: v.Ended.Reason}
	}
	return nil
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // plain structs: cannot fail
	}
	return b
}
