package token

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/backoff"
)

// Key is where the order lies in etcd.
const Key = "/hactl/v1/token"

// ErrNotGood is returned, wrapped, by Good for a token that was replaced or
// revoked.
var ErrNotGood = errors.New("the token was replaced or revoked")

// Store reads and writes the order in etcd.
type Store struct {
	client *clientv3.Client
	sealer sealer
}

// New returns the Store of a cluster, whose gossip key (pki.GossipKeyFile's, 32
// bytes) seals the order. The client stays the caller's.
func New(client *clientv3.Client, gossipKey []byte, cluster string) (*Store, error) {
	s, err := newSealer(gossipKey, cluster)
	return &Store{client, s}, err
}

// Put tells all masters of o.
func (s *Store) Put(ctx context.Context, o Order) error {
	value, err := s.sealer.seal(o)
	if err != nil {
		return err
	}
	if _, err := s.client.Put(ctx, Key, string(value)); err != nil {
		return fmt.Errorf("write the token to etcd: %w", err)
	}
	return nil
}

// Get returns the order; nil when there never was one. It is a linearizable read:
// what it returns was true after it was called. ErrSealed, wrapped, when it
// cannot be opened.
func (s *Store) Get(ctx context.Context) (*Order, error) {
	o, _, err := s.get(ctx)
	return o, err
}

// get returns the revision of the answer, too.
func (s *Store) get(ctx context.Context) (*Order, int64, error) {
	resp, err := s.client.Get(ctx, Key)
	if err != nil {
		return nil, 0, fmt.Errorf("read the token from etcd: %w", err)
	}
	if len(resp.Kvs) == 0 {
		return nil, resp.Header.Revision, nil
	}
	o, err := s.sealer.open(resp.Kvs[0].Value)
	if err != nil {
		return nil, resp.Header.Revision, err
	}
	return &o, resp.Header.Revision, nil
}

// Good returns nil when text is the token that etcd names, or etcd never named
// one; ErrNotGood, wrapped, when it names another or none; and any other error when etcd
// does not say.
func (s *Store) Good(ctx context.Context, text string) error {
	o, err := s.Get(ctx)
	switch {
	case err != nil:
		return err
	case o == nil || o.Token == text:
		return nil
	case o.Revoked():
		return fmt.Errorf("%w (revoked on %s at %s)", ErrNotGood, o.By, o.At.UTC().Format(time.RFC3339))
	default:
		return fmt.Errorf("%w (replaced on %s at %s)", ErrNotGood, o.By, o.At.UTC().Format(time.RFC3339))
	}
}

// Watch calls each with the order of now, if there is one, and with every later
// one, until ctx ends. What goes wrong, such as an etcd that is away, is told to
// trouble and tried again for as long as it takes. An order may come twice.
func (s *Store) Watch(ctx context.Context, each func(Order), trouble func(error)) {
	pause := &backoff.Backoff{Base: 500 * time.Millisecond, Max: 15 * time.Second}
	for ctx.Err() == nil {
		if err := s.follow(ctx, each, trouble, pause.Reset); ctx.Err() == nil {
			trouble(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause.Next()):
		}
	}
}

// follow is Watch until something goes wrong.
func (s *Store) follow(ctx context.Context, each func(Order), trouble func(error), reached func()) error {
	readCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	o, revision, err := s.get(readCtx)
	cancel()
	if err != nil && revision == 0 {
		return err
	}
	reached()
	s.tell(o, err, each, trouble)
	// Without a leader the stream would stay open, and silent.
	watchCtx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range s.client.Watch(watchCtx, Key, clientv3.WithRev(revision+1)) {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch the token in etcd: %w", err)
		}
		for _, e := range resp.Events {
			if e.Type != clientv3.EventTypePut {
				continue // somebody removed it by hand: the last order stands
			}
			o, err := s.sealer.open(e.Kv.Value)
			s.tell(&o, err, each, trouble)
		}
	}
	return errors.New("watch the token in etcd: the stream ended")
}

func (s *Store) tell(o *Order, err error, each func(Order), trouble func(error)) {
	switch {
	case err != nil:
		trouble(err)
	case o != nil:
		each(*o)
	}
}
