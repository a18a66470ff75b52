package agent

import (
	"encoding/json"
	"os"
	"time"

	"github.com/hactl/hactl/internal/atomicfile"
)

// recent drops what is older than window. Times in the future, after the clock was
// set back, are dropped too: they would count for ever. The caller holds mu.
func (b *aloneBudget) recent(now time.Time, window time.Duration) {
	if !b.loaded {
		b.loaded = true
		if data, err := os.ReadFile(b.file); b.file != "" && err == nil {
			_ = json.Unmarshal(data, &b.times) // a damaged file is an empty one
		}
	}
	var kept []aloneRestart
	for _, r := range b.times {
		if age := now.Sub(r.Time); age >= 0 && age < window {
			kept = append(kept, r)
		}
	}
	b.times = kept
}

// save writes the file. The caller holds mu.
func (b *aloneBudget) save() error {
	if b.file == "" {
		return nil
	}
	data, err := json.Marshal(b.times)
	if err != nil {
		return err
	}
	return atomicfile.MkdirWrite(b.file, data, 0o600, 0o700)
}
