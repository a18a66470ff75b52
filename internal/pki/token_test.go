package pki

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/exitcode"
)

func format(secret []byte) string { return token{secret: secret}.format() }

func TestTokensDifferAndAreGood(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		tok := NewToken(time.Time{})
		if err := CheckToken(tok); err != nil || seen[tok] {
			t.Fatalf("%s: %v, twice %v", tok, err, seen[tok])
		}
		seen[tok] = true
	}
}

func TestWeakTokensAreRefused(t *testing.T) {
	good := NewToken(time.Time{})
	flipped := []byte(good)
	flipped[len(tokenPrefix)+3] ^= 1
	cases := map[string]struct{ token, want string }{
		"empty":           {"", "empty"},
		"blank":           {" \n", "empty"},
		"a password":      {"correct horse battery staple correct horse battery staple", "password"},
		"hex":             {strings.Repeat("ab12", 16), "password"},
		"cut":             {good[:len(good)-1], "check sum"},
		"cut in half":     {good[:20], "check sum"},
		"mistyped":        {string(flipped), "check sum"},
		"upper case":      {strings.ToUpper(good), "begin with"},
		"16 bytes":        {format([]byte("0123456789abcdef")), "32 bytes"},
		"none":            {format(nil), "32 bytes"},
		"zeros":           {format(make([]byte, 32)), "not random"},
		"a pattern":       {format(bytes.Repeat([]byte("0123456789abcde!"), 2)[:32]), ""},
		"a short pattern": {format(bytes.Repeat([]byte("secret!!"), 4)), "not random"},
		"not base64":      {tokenPrefix + "!" + "." + tokenSum("!"), "32 bytes"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := CheckToken(c.token)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, derr := DeriveKey(c.token, "gossip", 32); !errors.Is(derr, ErrToken) {
				t.Errorf("DeriveKey: %v", derr)
			}
			if len(c.token) > 8 && strings.Contains(err.Error(), c.token[7:]) {
				t.Error("the error shows the token")
			}
		})
	}
}

func TestDerivedKeys(t *testing.T) {
	secret, _ := hex.DecodeString("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	token := "hactl1." + base64.RawURLEncoding.EncodeToString(secret) + "." + tokenSum(base64.RawURLEncoding.EncodeToString(secret))
	derive := func(token, purpose string, n int) string {
		t.Helper()
		key, err := DeriveKey(token, purpose, n)
		if err != nil || len(key) != n {
			t.Fatalf("%d bytes, %v", len(key), err)
		}
		return hex.EncodeToString(key)
	}
	// Fixed for all time: two versions of hactl must derive the same key.
	// Computed with another HKDF, openssl kdf.
	const want = "09d22da27ab1d2e6fc16838414df41916e5a441333ebc517acd5143ea2f82a91"
	if got := derive(token, "gossip prod", 32); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if derive(token, "gossip prod", 32) != derive(token+"\n", "gossip prod", 32) {
		t.Error("a line end makes another key")
	}
	if derive(token, "gossip prod", 32) == derive(token, "gossip test", 32) {
		t.Error("two purposes, one key")
	}
	if derive(token, "a", 32) == derive(NewToken(time.Time{}), "a", 32) {
		t.Error("two tokens, one key")
	}
	for _, bad := range []struct {
		purpose string
		n       int
	}{{"", 32}, {"a", 15}, {"a", 0}, {"a", -1}, {"a", 255*32 + 1}} {
		if _, err := DeriveKey(token, bad.purpose, bad.n); err == nil {
			t.Errorf("%q, %d bytes: no error", bad.purpose, bad.n)
		}
	}
}

func TestReadToken(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	token := NewToken(time.Time{})
	write := func(text string, mode os.FileMode) {
		t.Helper()
		put(t, file, text)
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []os.FileMode{0o600, 0o400} {
		write(token+"\n", mode)
		if got, err := ReadToken(file); err != nil || got != token {
			t.Errorf("%o: %q, %v", mode, got, err)
		}
	}
	refused := func(what, path, want, hint string, code int) {
		t.Helper()
		_, err := ReadToken(path)
		var coded *exitcode.Error
		if !errors.As(err, &coded) || coded.Code != code || !strings.Contains(err.Error(), want) || !strings.Contains(coded.Hint, hint) {
			t.Errorf("%s: %v, %#v", what, err, coded)
		}
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("%s: the error shows the token", what)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o601} {
		write(token, mode)
		refused(mode.String(), file, "can be read by others", "chmod 600 "+file, exitcode.Refused)
	}
	write(token[:30], 0o600)
	refused("cut", file, "check sum", "hactl token create", exitcode.Usage)
	refused("missing", filepath.Join(dir, "none"), "no such file", "hactl token create", exitcode.Usage)
	refused("a folder", dir, "not a file", "", exitcode.Usage)
}

func TestTokensEnd(t *testing.T) {
	end := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	text := NewToken(end.Add(400 * time.Millisecond))
	if until, err := TokenUntil(text); err != nil || !until.Equal(end) {
		t.Errorf("until %v, %v; want %v", until, err, end)
	}
	if err := TokenValid(text, end.Add(-time.Second)); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	for _, now := range []time.Time{end, end.Add(time.Hour)} {
		err := TokenValid(text, now)
		if !errors.Is(err, ErrTokenExpired) || exitcode.Of(err) != exitcode.Refused || !strings.Contains(err.Error(), "2026-11-23T12:00:00Z") {
			t.Errorf("at %v: %v", now, err)
		}
	}
	none := NewToken(time.Time{})
	if until, err := TokenUntil(none); err != nil || !until.IsZero() {
		t.Errorf("one without an end: %v, %v", until, err)
	}
	if err := TokenValid(none, end.AddDate(1000, 0, 0)); err != nil {
		t.Error(err)
	}
	if err := TokenValid("x", end); !errors.Is(err, ErrToken) {
		t.Errorf("rubbish: %v", err)
	}
}

// Whoever writes a later end into a token has one that fits to nobody's.
func TestTheEndIsPartOfTheKey(t *testing.T) {
	tok, err := parseToken(NewToken(time.Unix(1800000000, 0)))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, until := range []int64{1800000000, 1800000001, 0} {
		tok.until = until
		key, err := DeriveKey(tok.format(), "gossip", 32)
		if err != nil {
			t.Fatal(err)
		}
		keys[string(key)] = true
	}
	if len(keys) != 3 {
		t.Errorf("%d keys of 3 ends", len(keys))
	}
	body := base64.RawURLEncoding.EncodeToString(tok.secret)
	for _, end := range []string{"0", "-1", "+1", "01", "", "x", "253402300800", "99999999999999999999", "1.1"} {
		text := tokenPrefix + end + "." + body + "." + tokenSum(end+"."+body)
		if _, err := parseToken(text); !errors.Is(err, ErrToken) {
			t.Errorf("end %q: %v", end, err)
		}
	}
}

func TestFingerprintsTellTokensApart(t *testing.T) {
	a, b := NewToken(time.Time{}), NewToken(time.Time{})
	fa, err := TokenFingerprint(a)
	if err != nil || len(fa) != 8 {
		t.Fatalf("%q, %v", fa, err)
	}
	if fb, _ := TokenFingerprint(b); fa == fb || strings.Contains(a, fa) {
		t.Errorf("%s and %s", fa, fb)
	}
}

func FuzzCheckToken(f *testing.F) {
	f.Add(NewToken(time.Time{}))
	f.Add("")
	f.Add("hactl1..")
	f.Add(NewToken(time.Unix(1800000000, 0)))
	f.Add(format(make([]byte, 32)))
	f.Fuzz(func(t *testing.T, text string) {
		if CheckToken(text) != nil {
			return
		}
		tok, err := parseToken(text)
		if err != nil || tok.format() != strings.TrimSpace(text) {
			t.Errorf("%q is accepted but prints as %q", text, tok.format())
		}
	})
}
