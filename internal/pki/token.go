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
	"strconv"
	"strings"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

// A token is printed as
//
//	hactl1.<32 random bytes, base64url without padding>.<8 hex digits>
//	hactl1.<end, in Unix seconds>.<32 random bytes>.<8 hex digits>
//
// where the last part is the beginning of a SHA-256 over what is between, so
// that a token that was cut or mistyped is told from a wrong one. The first form
// has no end. The end is part of what keys are derived from: one that was written
// in by hand makes a token that fits to nobody's.
const (
	tokenPrefix = "hactl1."
	tokenBytes  = 32
)

// ErrToken is returned, wrapped, for a text that is no token of NewToken's.
var ErrToken = errors.New("not a token")

// ErrTokenExpired is returned, wrapped, by TokenValid for one whose time is over.
var ErrTokenExpired = errors.New("the token expired")

// NewToken makes a cluster's shared secret, in its printable form. It is worth
// nothing after until, in whole seconds; the zero time: it has no end.
func NewToken(until time.Time) string {
	secret := make([]byte, tokenBytes)
	_, _ = rand.Read(secret) // it returns no error: without randomness it ends the program
	return token{secret: secret, until: unixOrNone(until)}.format()
}

func unixOrNone(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// token is what is in the printable form.
type token struct {
	secret []byte
	until  int64 // Unix seconds; 0: no end
}

func (t token) format() string {
	body := base64.RawURLEncoding.EncodeToString(t.secret)
	if t.until != 0 {
		body = strconv.FormatInt(t.until, 10) + "." + body
	}
	return tokenPrefix + body + "." + tokenSum(body)
}

// salt is HKDF's: the end of the token is in it.
func (t token) salt() []byte {
	if t.until == 0 {
		return []byte("hactl token v1")
	}
	return []byte("hactl token v1 until " + strconv.FormatInt(t.until, 10))
}

func tokenSum(body string) string {
	sum := sha256.Sum256([]byte("hactl token " + body))
	return hex.EncodeToString(sum[:4])
}

// parseToken reads the printable form. Its errors never show it.
func parseToken(text string) (token, error) {
	text = strings.TrimSpace(text)
	bad := func(why string) (token, error) { return token{}, fmt.Errorf("%w: %s", ErrToken, why) }
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	switch {
	case text == "":
		return bad("it is empty")
	case !ok:
		return bad("it does not begin with " + tokenPrefix + "; a password of one's own is too weak, since whoever hears the gossip can try guesses")
	}
	dot := strings.LastIndexByte(rest, '.')
	if dot < 0 || rest[dot+1:] != tokenSum(rest[:dot]) {
		return bad("its check sum is wrong, so it was cut or mistyped")
	}
	var t token
	body := rest[:dot]
	if end, after, ok := strings.Cut(body, "."); ok {
		until, err := strconv.ParseInt(end, 10, 64)
		if err != nil || until < 1 || until > maxUntil || strconv.FormatInt(until, 10) != end {
			return bad("its end is no time")
		}
		t.until, body = until, after
	}
	var err error
	t.secret, err = base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(t.secret) != tokenBytes {
		return bad(fmt.Sprintf("it must hold %d bytes", tokenBytes))
	}
	// Random bytes have some 30 different values among 32; one that was made by
	// hand has few.
	var seen [256]bool
	distinct := 0
	for _, b := range t.secret {
		if !seen[b] {
			seen[b] = true
			distinct++
		}
	}
	if distinct < 16 {
		return bad("its bytes are not random")
	}
	return t, nil
}

// maxUntil is the end of the year 9999: later times have no usual notation.
const maxUntil = 253402300799

// TokenUntil returns the end of a token; the zero time when it has none.
// ErrToken, wrapped, for a text that is no token.
func TokenUntil(text string) (time.Time, error) {
	t, err := parseToken(text)
	if err != nil || t.until == 0 {
		return time.Time{}, err
	}
	return time.Unix(t.until, 0), nil
}

// TokenValid returns nil while a token is good, and otherwise ErrTokenExpired with
// the time, or ErrToken.
func TokenValid(text string, now time.Time) error {
	until, err := TokenUntil(text)
	if err != nil {
		return err
	}
	if !until.IsZero() && !now.Before(until) {
		return exitcode.Errorf(exitcode.Refused, "%w at %s", ErrTokenExpired, until.UTC().Format(time.RFC3339)).
			WithHint("hactl token rotate, on a running master; then copy its token file here")
	}
	return nil
}

// TokenFingerprint names a token without telling it: 8 hex digits, derived as a
// key is.
func TokenFingerprint(text string) (string, error) {
	key, err := DeriveKey(text, "fingerprint", 16)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(key[:4]), nil
}

// CheckToken says why token cannot be used (ErrToken), or nil.
func CheckToken(text string) error {
	_, err := parseToken(text)
	return err
}

// ReadToken reads a token file. It refuses (exitcode.Refused) a file that
// others than its owner may read, and a content that is no token. One that expired is returned as any other (TokenValid).
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
	text := string(bytes.TrimSpace(data))
	if err := CheckToken(text); err != nil {
		return "", exitcode.Errorf(exitcode.Usage, "the token in %s: %w", path, err).WithHint("%s", hint)
	}
	return text, nil
}

// DeriveKey makes a key of n bytes (at most 8160) from a token for one purpose,
// with HKDF-SHA256 (RFC 5869): keys for two purposes tell nothing of each other
// or of the token. It fails with ErrToken for a token that NewToken did not
// make. Add the cluster's name to the purpose where clusters may share a token.
func DeriveKey(text, purpose string, n int) ([]byte, error) {
	t, err := parseToken(text)
	if err != nil {
		return nil, err
	}
	if purpose == "" || n < 16 {
		return nil, fmt.Errorf("derive a key: it needs a purpose and at least 16 bytes, not %q and %d", purpose, n)
	}
	key, err := hkdf.Key(sha256.New, t.secret, t.salt(), purpose, n)
	if err != nil {
		return nil, fmt.Errorf("derive the key for %s: %w", purpose, err)
	}
	return key, nil
}
