package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// shrink gives back, once the campaign runs, what only the start needed: a podmaster
// waits for months.
func (p *podmaster) shrink(ctx context.Context) {
	for {
		s, changed := p.elector.Status()
		if s.Rounds > 0 {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
	select {
	case <-time.After(5 * time.Second): // all connections are made by then
		if err := giveBack(); err != nil {
			p.o.log.Debug("memory of the start is not given back", "err", err)
		}
	case <-ctx.Done():
	}
}

// giveBack returns unused memory to the kernel, and the pages of the program's code
// and constants, of which waiting needs few: those come back from the page cache
// when they are touched.
func giveBack() error {
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	var m mapping
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) < 2:
		case strings.Contains(fields[0], "-"):
			m = mapping{}
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end); err != nil {
				return fmt.Errorf("/proc/self/smaps: %q: %w", lines.Text(), err)
			}
			m.constant = len(fields) == 6 && strings.HasPrefix(fields[5], "/") && fields[1][1] != 'w'
		case fields[0] == "Anonymous:":
			m.unchanged = fields[1] == "0"
		case fields[0] == "Swap:":
			m.notSwapped = fields[1] == "0"
		case fields[0] == "VmFlags:" && m.constant && m.unchanged && m.notSwapped: // its last line
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
				errs = append(errs, fmt.Errorf("madvise %x-%x: %w", m.start, m.end, errno))
			}
		}
	}
	return errors.Join(append(errs, lines.Err())...)
}

// mapping is one of the program's, and what makes it safe to let go of: the file has
// all of it. A loader may have changed pages before it protected them, and those may be
// in the swap.
type mapping struct {
	start, end                      uintptr
	constant, unchanged, notSwapped bool
}
