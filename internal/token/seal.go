package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hactl/hactl/internal/pki"
)

// Order is what the masters are told of the token.
type Order struct {
	Token string    `json:"token"` // empty: there is none, it was revoked
	At    time.Time `json:"at"`    // by the clock of By
	By    string    `json:"by"`    // the master on which it was ordered
}

// Revoked tells whether there is no token any more.
func (o Order) Revoked() bool { return o.Token == "" }

// ErrSealed is returned, wrapped, when what is in etcd was sealed with another
// key, or is damaged.
var ErrSealed = errors.New("the token in etcd cannot be opened with this master's gossip key")

// sealed is the value in etcd, as JSON.
type sealed struct {
	Version int    `json:"v"`
	Nonce   []byte `json:"nonce"`
	Text    []byte `json:"text"`
}

const sealVersion = 1

type sealer struct{ gcm cipher.AEAD }

func newSealer(gossipKey []byte, cluster string) (sealer, error) {
	if len(gossipKey) < 32 {
		return sealer{}, fmt.Errorf("token: the gossip key has %d bytes, want 32", len(gossipKey))
	}
	key, err := hkdf.Key(sha256.New, gossipKey, []byte("hactl gossip key v1"), "token in etcd of cluster "+cluster, 32)
	if err != nil {
		return sealer{}, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	gcm, err := cipher.NewGCM(block)
	return sealer{gcm}, err
}

func (s sealer) seal(o Order) ([]byte, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, s.gcm.NonceSize())
	_, _ = rand.Read(nonce) // it returns no error
	return json.Marshal(sealed{sealVersion, nonce, s.gcm.Seal(nil, nonce, text, []byte(Key))})
}

// open reads what seal made. Its errors do not show it.
func (s sealer) open(value []byte) (Order, error) {
	var v sealed
	if err := json.Unmarshal(value, &v); err != nil {
		return Order{}, fmt.Errorf("%w: not as it was written", ErrSealed)
	}
	if v.Version != sealVersion {
		return Order{}, fmt.Errorf("%w: it is of version %d, this hactl knows %d", ErrSealed, v.Version, sealVersion)
	}
	if len(v.Nonce) != s.gcm.NonceSize() {
		return Order{}, fmt.Errorf("%w: not as it was written", ErrSealed)
	}
	text, err := s.gcm.Open(nil, v.Nonce, v.Text, []byte(Key))
	if err != nil {
		return Order{}, ErrSealed
	}
	var o Order
	if err := json.Unmarshal(text, &o); err != nil {
		return Order{}, fmt.Errorf("%w: not as it was written", ErrSealed)
	}
	if o.Revoked() {
		return o, nil
	}
	return o, pki.CheckToken(o.Token)
}
