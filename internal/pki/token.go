package pki

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hactl/hactl/internal/exitcode"
)

// A token is printed as
//
//	hactl1.<32 random bytes, base64url without padding>.<8 hex digits>
//
// where the last part is the beginning of a SHA-256 over the part before it, so
// that a token that was cut or mistyped is told from a wrong one.
const (
	tokenPrefix = "hactl1."
	tokenBytes  = 32
)

// ErrToken is returned, wrapped, for a text that is no token of NewToken's.
var ErrToken = errors.New("not a token")

// NewToken makes a cluster's shared secret, in its printable form.
func NewToken() string {
	secret := make([]byte, tokenBytes)
	_, _ = rand.Read(secret) // it returns no error: without randomness it ends the program
	return formatToken(secret)
}

func formatToken(secret []byte) string {
	body := base64.RawURLEncoding.EncodeToString(secret)
	return tokenPrefix + body + "." + tokenSum(body)
}

func tokenSum(body string) string {
	sum := sha256.Sum256([]byte("hactl token " + body))
	return hex.EncodeToString(sum[:4])
}

// parseToken returns the secret. Its errors never show it.
func parseToken(token string) ([]byte, error) {
	token = strings.TrimSpace(token)
	bad := func(why string) ([]byte, error) { return nil, fmt.Errorf("%w: %s", ErrToken, why) }
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	switch {
	case token == "":
		return bad("it is empty")
	case !ok:
		return bad("it does not begin with " + tokenPrefix + "; a password of one's own is too weak, since whoever hears the gossip can try guesses")
	}
	body, sum, ok := strings.Cut(rest, ".")
	if !ok || sum != tokenSum(body) {
		return bad("its check sum is wrong, so it was cut or mistyped")
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(secret) != tokenBytes {
		return bad(fmt.Sprintf("it must hold %d bytes", tokenBytes))
	}
	// Random bytes have some 30 different values among 32; one that was made by
	// hand has few.
	var seen [256]bool
	distinct := 0
	for _, b := range secret {
		if !seen[b] {
			seen[b] = true
			distinct++
		}
	}
	if distinct < 16 {
		return bad("its bytes are not random")
	}
	return secret, nil
}

// CheckToken says why token cannot be used (ErrToken), or nil.
func CheckToken(token string) error {
	_, err := parseToken(token)
	return err
}

// ReadToken reads a token file. It refuses (exitcode.Refused) a file that
// others than its owner may read, and a content that is no token.
func ReadToken(path string) (string, error) {
	hint := fmt.Sprintf("hactl token create > %s && chmod 600 %s", path, path)
	fi, err := os.Stat(path)
	if err != nil {
		return "", exitcode.Errorf(exitcode.Usage, "read the token: %w", err).WithHint("%s (on one master; copy it to the others)", hint)
	}
	if !fi.Mode().IsRegular() {
		return "", exitcode.Errorf(exitcode.Usage, "read the token: %s is not a file", path)
	}
	if perm := fi.Mode().Perm(); perm&0o077 != 0 {
		return "", exitcode.Errorf(exitcode.Refused, "the token %s can be read by others than its owner (mode %04o)", path, perm).
			WithHint("chmod 600 %s; if someone may have read it, make a new one: hactl token create", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	token := string(bytes.TrimSpace(data))
	if err := CheckToken(token); err != nil {
		return "", exitcode.Errorf(exitcode.Usage, "the token in %s: %w", path, err).WithHint("%s", hint)
	}
	return token, nil
}

// DeriveKey makes a key of n bytes (at most 8160) from a token for one purpose,
// with HKDF-SHA256 (RFC 5869): keys for two purposes tell nothing of each other
// or of the token. It fails with ErrToken for a token that NewToken did not
// make. Add the cluster's name to the purpose where clusters may share a token.
func DeriveKey(token, purpose string, n int) ([]byte, error) {
	secret, err := parseToken(token)
	if err != nil {
		return nil, err
	}
	if purpose == "" || n < 16 {
		return nil, fmt.Errorf("derive a key: it needs a purpose and at least 16 bytes, not %q and %d", purpose, n)
	}
	key, err := hkdf.Key(sha256.New, secret, []byte("hactl token v1"), purpose, n)
	if err != nil {
		return nil, fmt.Errorf("derive the key for %s: %w", purpose, err)
	}
	return key, nil
}
