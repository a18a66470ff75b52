package mesh

import (
	"log"
	"log/slog"
	"regexp"
	"sync"
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
// a minute; everything, at the level debug. trouble is called for each warning
// and error.
func libraryLogger(l *slog.Logger, trouble func()) *log.Logger {
	return log.New(&quiet{
		logger: l, trouble: trouble, now: time.Now, next: logging.Std(l), lines: map[string]line{},
	}, "", 0)
}

type quiet struct {
	logger  *slog.Logger
	trouble func()
	now     func() time.Time
	next    *log.Logger

	mu    sync.Mutex
	lines map[string]line // what was said lately
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
	q.trouble()
	say, unsaid := q.note(particular.ReplaceAllString(text, "#"))
	if !say {
		return len(p), nil
	}
	q.next.Print(text)
	if unsaid > 0 {
		q.logger.Debug("lines like the last were left out", "count", unsaid)
	}
	return len(p), nil
}

// note counts a line of one kind, and tells whether to say it and how many were
// not said since the last.
func (q *quiet) note(kind string) (say bool, unsaid int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	l, known := q.lines[kind]
	say, unsaid = !known || now.Sub(l.at) >= sayAgain, l.unsaid
	if say {
		l = line{at: now}
	} else {
		l.unsaid++
	}
	if len(q.lines) > 1000 { // strangers choose the words
		clear(q.lines)
	}
	q.lines[kind] = l
	return say, unsaid
}
