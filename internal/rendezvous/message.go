package rendezvous

import (
	"encoding/json"
	"errors"
	"fmt"
)

// What a message is.
const (
	sayCard    = "card"
	askConfig  = "config?"
	askSecrets = "secrets?"
	answer     = "answer"
)

// How a question was answered.
const (
	codeOK      = ""
	codeRefused = "refused"
	codeNone    = "none"
	codeFailed  = "failed"
)

// message is everything that one node says to another, in JSON.
type message struct {
	Kind string `json:"kind"`
	From string `json:"from"` // the speaker's node name

	Card *Card  `json:"card,omitempty"` // with sayCard
	Seq  uint64 `json:"seq,omitempty"`  // with sayCard: grows with each of one node

	ID     string `json:"id,omitempty"`     // of a question and its answer: 16 random bytes
	Config string `json:"config,omitempty"` // with askSecrets: HashConfig of the asker's
	Public []byte `json:"public,omitempty"` // with secrets: an X25519 key for this one answer

	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"` // why not
	Body  []byte `json:"body,omitempty"`  // the configuration's text, or sealed secrets
}

// Bounds of what is read. A CA set is 6 KB, a long configuration 20.
const (
	maxMessage = 512 << 10
	maxBody    = 256 << 10
	maxError   = 4 << 10
	maxName    = 256
	publicSize = 32
	idSize     = 32 // hex digits
)

func (m message) encode() ([]byte, error) {
	text, err := json.Marshal(m)
	if err == nil && len(text) > maxMessage {
		err = fmt.Errorf("%d bytes, at most %d are carried", len(text), maxMessage)
	}
	return text, err
}

// decode reads what another node said. Fields of a newer version are passed
// over; whatever is not as it should be is an error.
func decode(text []byte) (message, error) {
	if len(text) > maxMessage {
		return message{}, fmt.Errorf("%d bytes, at most %d are read", len(text), maxMessage)
	}
	var m message
	if err := json.Unmarshal(text, &m); err != nil {
		return message{}, errors.New("no message") // the cause may show the content
	}
	return m, m.check()
}

func (m message) check() error {
	if _, ok := parseNodeName(m.From); !ok {
		return errors.New("a message of nobody")
	}
	if len(m.Body) > maxBody || len(m.Error) > maxError || len(m.Config) > maxField || len(m.Code) > maxField {
		return errors.New("a field is too long")
	}
	switch m.Kind {
	case sayCard:
		if m.Card == nil {
			return errors.New("a card is missing")
		}
		return m.Card.check()
	case askConfig, answer:
	case askSecrets:
		if len(m.Public) != publicSize {
			return errors.New("a question for secrets without a key")
		}
	default:
		return fmt.Errorf("a message of the unknown kind %.20q", m.Kind)
	}
	if len(m.ID) != idSize {
		return errors.New("a question or an answer without its number")
	}
	return nil
}
