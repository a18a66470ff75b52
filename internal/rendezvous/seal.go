package rendezvous

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// sealKey is the key of one answer, from two X25519 keys that live for it alone
// and the key that all have. The nonce may be zero: it seals one text.
func sealKey(own *ecdh.PrivateKey, other, shared []byte, id string, transcript []byte) (cipher.AEAD, error) {
	pub, err := ecdh.X25519().NewPublicKey(other)
	if err != nil {
		return nil, err
	}
	secret, err := own.ECDH(pub)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, secret, shared, "hactl rendezvous answer "+id+" "+string(transcript), 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func transcript(asker, answerer []byte) []byte {
	return append(append([]byte(nil), asker...), answerer...)
}

// seal encrypts secrets so that only who asked with the key asker can read them.
func seal(s Secrets, asker, shared []byte, id string) (public, sealed []byte, err error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, nil, err
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	public = own.PublicKey().Bytes()
	gcm, err := sealKey(own, asker, shared, id, transcript(asker, public))
	if err != nil {
		return nil, nil, err
	}
	sealed = gcm.Seal(nil, make([]byte, gcm.NonceSize()), text, nil)
	if len(sealed) > maxBody {
		return nil, nil, fmt.Errorf("the secrets have %d bytes, at most %d are carried", len(sealed), maxBody)
	}
	return public, sealed, nil
}

// open reads what seal made for own.
func open(own *ecdh.PrivateKey, public, sealed, shared []byte, id string) (Secrets, error) {
	if len(public) != publicSize {
		return nil, errors.New("an answer without a key")
	}
	gcm, err := sealKey(own, public, shared, id, transcript(own.PublicKey().Bytes(), public))
	if err != nil {
		return nil, err
	}
	text, err := gcm.Open(nil, make([]byte, gcm.NonceSize()), sealed, nil)
	if err != nil {
		return nil, errors.New("an answer that was not sealed for this question")
	}
	var s Secrets
	if err := json.Unmarshal(text, &s); err != nil || len(s) == 0 {
		return nil, errors.New("an answer without secrets in it")
	}
	return s, nil
}
