package gossip

import (
	"log"
	"regexp"
	"time"

	"github.com/hactl/hactl/internal/logging"
)

// sayAgain is the pause after which a line of memberlist's is logged again. A
// stranger's packets, or a peer that is down, would fill the log otherwise.
const sayAgain = time.Minute

// line is one kind of line that memberlist writes.
type line struct {
	at     time.Time // when it was last logged
	unsaid int       // how often it came since
}

// particular matches what differs between lines of one kind.
var particular = regexp.MustCompile(`[0-9a-fA-F.:\[\]]*[0-9][0-9a-fA-F.:\[\]]*`)

// libraryLogger bridges memberlist's log: warnings and errors, each kind once
// a minute; everything, at the level debug.
func (n *Node) libraryLogger() *log.Logger {
	return log.New(&quiet{n: n, now: time.Now, next: logging.Std(n.cfg.Logger.With("master", n.cfg.Name))}, "", 0)
}

type quiet struct {
	n    *Node
	now  func() time.Time
	next *log.Logger
}

var severe = regexp.MustCompile(`^\[(ERR|ERROR|WARN)\] `)

// Write passes one line on, or counts it.
func (q *quiet) Write(p []byte) (int, error) {
	text := string(p)
	if !severe.MatchString(text) {
		if i := len("[INFO] "); len(text) > i && text[:i] == "[INFO] " {
			text = "[DEBUG] " + text[i:] // its news are ours too, in our words
		}
		q.next.Print(text)
		return len(p), nil
	}
	q.n.metrics.troubles.Inc()
	kind := particular.ReplaceAllString(text, "#")
	now := q.now()
	q.n.mu.Lock()
	l, known := q.n.lines[kind]
	say := !known || now.Sub(l.at) >= sayAgain
	unsaid := l.unsaid
	if say {
		l = line{at: now}
	} else {
		l.unsaid++
	}
	if len(q.n.lines) > 1000 { // strangers choose the words
		clear(q.n.lines)
	}
	q.n.lines[kind] = l
	q.n.mu.Unlock()
	if !say {
		return len(p), nil
	}
	q.next.Print(text)
	if unsaid > 0 {
		q.n.cfg.Logger.Debug("gossip: lines like the last were left out", "master", q.n.cfg.Name, "count", unsaid)
	}
	return len(p), nil
}
