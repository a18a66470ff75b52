package kubebin

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// progress tells how far a long task is: on a terminal one line that changes,
// elsewhere a new line every now and then.
type progress struct {
	w     io.Writer
	tty   bool
	every time.Duration // between two lines where there is no terminal
	start time.Time
	last  time.Time
	open  bool // the terminal's line is not ended yet
}

func (s *Store) progress() *progress {
	now := time.Now()
	return &progress{w: s.cfg.Stderr, tty: s.cfg.Terminal, every: s.cfg.Every, start: now, last: now}
}

// update shows text with the time since the task began, if it is time to.
func (p *progress) update(format string, args ...any) {
	now := time.Now()
	if !p.tty && now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	p.print(fmt.Sprintf(format, args...), !p.tty)
}

// done ends the task's line with text.
func (p *progress) done(format string, args ...any) {
	p.print(fmt.Sprintf(format, args...), true)
}

// abort leaves the terminal on a new line.
func (p *progress) abort() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}

func (p *progress) print(text string, end bool) {
	var b strings.Builder
	if p.tty {
		b.WriteString("\r\x1b[K") // to the line's begin, and clear it
	}
	fmt.Fprintf(&b, "kubebin: %s, %s", text, time.Since(p.start).Round(time.Second))
	if end {
		b.WriteByte('\n')
	}
	p.open = !end
	fmt.Fprint(p.w, b.String())
}

// say writes a line of its own.
func (s *Store) say(format string, args ...any) {
	fmt.Fprintf(s.cfg.Stderr, "kubebin: "+format+"\n", args...)
}

// IsTerminal tells whether w is a terminal on which a line can be rewritten.
func IsTerminal(w io.Writer, getenv func(string) string) bool {
	f, ok := w.(*os.File)
	if !ok || getenv("TERM") == "" || getenv("TERM") == "dumb" {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}
