package rendezvous

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hactl/hactl/internal/atomicfile"
	"github.com/hactl/hactl/internal/layout"
)

// MachineID returns what tells this machine from any other that has its name: a
// hash over /etc/machine-id and 16 random bytes that are made once and kept in
// the state folder. Machines cloned from one image share the first, unless it was
// emptied; those whose disks were cloned after the first start share both.
func MachineID(l layout.Layout) (string, error) {
	own, err := ownID(filepath.Join(l.State(), "machine"))
	if err != nil {
		return "", fmt.Errorf("this machine's id: %w", err)
	}
	system, err := os.ReadFile("/etc/machine-id")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("this machine's id: %w", err)
	}
	// machine-id(5) asks not to show it as it is.
	sum := sha256.Sum256([]byte("hactl machine " + strings.TrimSpace(string(system)) + " " + own))
	return hex.EncodeToString(sum[:16]), nil
}

func ownID(path string) (string, error) {
	text, err := os.ReadFile(path)
	if own := strings.TrimSpace(string(text)); err == nil && own != "" {
		return own, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	own := rand.Text()
	return own, atomicfile.MkdirWrite(path, []byte(own+"\n"), 0o600, 0o700)
}
