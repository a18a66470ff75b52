package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fused is the process of the tests: it lights its fuse, tells so, and then does
// what its argument says.
func fused(how string) error {
	f, err := NewFuse()
	if err != nil {
		return err
	}
	if err := f.Light(boottime() + time.Second); err != nil {
		return err
	}
	switch how {
	case "stops": // and nobody continues it
		if err := unix.Kill(os.Getpid(), unix.SIGSTOP); err != nil {
			return err
		}
	case "waits":
	case "moves":
		err = f.Light(boottime() + 3*time.Second)
	case "puts out":
		err = f.Light(0)
	case "late":
		err = f.Light(1)
	}
	if err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond)
	fmt.Println("after the first time")
	if how != "puts out" {
		time.Sleep(10 * time.Second)
	}
	fmt.Println("end")
	return nil
}

func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func TestFuse(t *testing.T) {
	for how, want := range map[string]struct {
		said   string
		signal syscall.Signal
	}{
		"waits":    {"", syscall.SIGKILL},
		"stops":    {"", syscall.SIGKILL},
		"late":     {"", syscall.SIGKILL},
		"moves":    {"after the first time\n", syscall.SIGKILL},
		"puts out": {"after the first time\nend\n", 0},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			p, err := Start(Config{Path: os.Args[0], Args: []string{how}, Env: append(os.Environ(), roleEnv+"=fused"), Stdout: w})
			_ = w.Close()
			if err != nil {
				t.Fatal(err)
			}
			said, err := io.ReadAll(bufio.NewReader(r))
			if end := p.Wait(); err != nil || string(said) != want.said || end.Signal != want.signal {
				t.Errorf("said %q, ended by %v (%v), want %q and %v", said, end, err, want.said, want.signal)
			}
		})
	}
}
