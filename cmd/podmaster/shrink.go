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
	var start, end uintptr // of a mapping of a file that is never written, else 0
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 2 && strings.Contains(fields[0], "-"):
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end); err != nil {
				return fmt.Errorf("/proc/self/smaps: %q: %w", lines.Text(), err)
			}
			if file := len(fields) == 6 && strings.HasPrefix(fields[5], "/"); !file || fields[1][1] == 'w' {
				start, end = 0, 0
			}
		case len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" && end != 0:
			// Not even changed by a loader before it was protected: the file has it all.
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); errno != 0 {
				errs = append(errs, fmt.Errorf("madvise %x-%x: %w", start, end, errno))
			}
		}
	}
	return errors.Join(append(errs, lines.Err())...)
}
