package rendezvous

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var node1 = nodeName{"m1", "0123", "4567"}

func goodCard() Card {
	return Card{Name: "m1", Address: "10.0.0.1", Machine: "0123", Release: "v1", Kubernetes: "v1.36.3", Config: "ab", Phase: Member, Cluster: "cd", Serving: true, Clock: time.Unix(1800000000, 5).UTC()}
}

func TestMessages(t *testing.T) {
	card := goodCard()
	id := strings.Repeat("a", idSize)
	good := []message{
		{Kind: sayCard, From: node1.String(), Card: &card, Seq: 7},
		{Kind: askConfig, From: node1.String(), ID: id},
		{Kind: askSecrets, From: node1.String(), ID: id, Config: "ab", Public: make([]byte, publicSize)},
		{Kind: answer, From: node1.String(), ID: id, Body: make([]byte, maxBody)},
	}
	for _, m := range good {
		text, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(text); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s was read back as %+v, %v", m.Kind, got, err)
		}
	}
	for want, spoil := range map[string]func(*message){
		"of nobody":          func(m *message) { m.From = "m1" },
		"unknown kind":       func(m *message) { m.Kind = "x" },
		"card is missing":    func(m *message) { m.Kind = sayCard },
		"without its number": func(m *message) { m.ID = "" },
		"without a key":      func(m *message) { m.Kind = askSecrets },
		"too long":           func(m *message) { m.Error = strings.Repeat("x", maxError+1) },
		"address":            func(m *message) { c := goodCard(); c.Address = "m1"; m.Kind, m.Card = sayCard, &c },
		"phase":              func(m *message) { c := goodCard(); c.Phase = "x"; m.Kind, m.Card = sayCard, &c },
		"release: not":       func(m *message) { c := goodCard(); c.Release = "\x1b[2J"; m.Kind, m.Card = sayCard, &c },
		"cluster id: not": func(m *message) {
			c := goodCard()
			c.Cluster = strings.Repeat("x", maxField+1)
			m.Kind, m.Card = sayCard, &c
		},
		"name or machine: emp": func(m *message) { c := goodCard(); c.Machine = ""; m.Kind, m.Card = sayCard, &c },
	} {
		m := message{Kind: askConfig, From: node1.String(), ID: id}
		spoil(&m)
		text, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := decode(bytes.Repeat([]byte(" "), maxMessage+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too long: %v", err)
	}
	if m, err := decode(fmt.Appendf(nil, `{"kind":"config?","from":"m1/a/b","id":%q,"future":{"x":1}}`, id)); err != nil || m.Kind != askConfig {
		t.Errorf("a newer version's: %+v, %v; want its known fields", m, err)
	}
}

// What a key holder sends must neither crash nor be taken for more than it is.
func FuzzDecode(f *testing.F) {
	card := goodCard()
	for _, m := range []message{
		{Kind: sayCard, From: node1.String(), Card: &card, Seq: 7},
		{Kind: askSecrets, From: node1.String(), ID: strings.Repeat("a", idSize), Public: make([]byte, publicSize)},
		{Kind: answer, From: node1.String(), ID: strings.Repeat("a", idSize), Code: codeRefused, Error: "why\x1b"},
	} {
		text, err := m.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"kind":"card","from":"//","card":{}}`))
	n, err := New(Config{
		Name: "m1", Cluster: "prod", Bind: "10.0.0.1:7947", Key: key,
		Card: goodCard, Config: func() ([]byte, error) { return nil, nil }, Secrets: func() (Secrets, error) { return secrets, nil },
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n.heard(text)
		m, err := decode(text)
		if err != nil {
			return
		}
		if err := m.failure(); m.Kind == answer && err != nil && !printable(strings.ReplaceAll(err.Error(), "\n", "")) {
			t.Errorf("%q would be shown on a terminal", err)
		}
		if m.Kind == askSecrets {
			if a := n.answer(m, "10.0.0.2:7947"); a.Code != codeRefused || a.Body != nil {
				t.Errorf("an unknown machine got %+v", a)
			}
		}
		cards, _ := n.Cards()
		if len(cards) > maxEntries {
			t.Errorf("%d cards are kept", len(cards))
		}
	})
}

func FuzzOpen(f *testing.F) {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	public, sealed, err := seal(secrets, own.PublicKey().Bytes(), key, "id")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(public, sealed)
	f.Add([]byte{}, []byte{})
	f.Add(make([]byte, publicSize), sealed)
	f.Fuzz(func(t *testing.T, p, s []byte) {
		_, err := open(own, p, s, key, "id")
		if same := bytes.Equal(p, public) && bytes.Equal(s, sealed); same != (err == nil) {
			t.Errorf("the sealed text itself: %v; err = %v", same, err)
		}
	})
}

func TestOnlyTheAskerOpensItsAnswer(t *testing.T) {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, sealed, err := seal(secrets, own.PublicKey().Bytes(), key, "id")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := open(own, public, sealed, key, "id"); err != nil || !reflect.DeepEqual(got, secrets) {
		t.Fatalf("%d files, %v", len(got), err)
	}
	if bytes.Contains(sealed, []byte("CA's key")) {
		t.Error("the secrets are not sealed")
	}
	// Whoever recorded the answer and gets the token later has all but own.
	other, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(other, public, sealed, key, "id"); err == nil {
		t.Error("opened without the asker's key")
	}
	if _, err := open(own, public, sealed, bytes.Repeat([]byte{8}, 32), "id"); err == nil {
		t.Error("opened with another token")
	}
	if _, err := open(own, public, sealed, key, "other"); err == nil {
		t.Error("opened as the answer to another question")
	}
	if _, _, err := seal(Secrets{"x": make([]byte, maxBody)}, own.PublicKey().Bytes(), key, "id"); err == nil {
		t.Error("secrets of any size are carried")
	}
	if _, _, err := seal(secrets, make([]byte, publicSize), key, "id"); err == nil {
		t.Error("sealed to a key that anybody can guess")
	}
}
