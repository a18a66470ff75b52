package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// rssFile is how much of the program's files is mapped in, in KiB.
func rssFile(t *testing.T) (kib int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(b), "RssFile:")
	if _, err := fmt.Sscan(after, &kib); !ok || err != nil {
		t.Fatalf("no RssFile: %v\n%s", err, b)
	}
	return kib
}

// What is given back is half and more of the program, and all that is needed again
// comes back: or this test would not go on.
func TestGiveBack(t *testing.T) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	before := rssFile(t)
	for range 3 {
		if err := giveBack(); err != nil {
			t.Fatal(err)
		}
	}
	if after := rssFile(t); after > before/2 {
		t.Errorf("%d KiB of the program's %d are mapped, %d before", after, len(b)>>10, before)
	}
}
