package watchdog

import (
	"errors"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

func TestOver(t *testing.T) {
	l := Limits{Memory: 1 << 30, Files: 90, Goroutines: 1000}
	for want, u := range map[string]Usage{
		"":                              {Memory: 1 << 30, Files: 90, MaxFiles: 100, Goroutines: 1000},
		"memory 2048 MiB of 1024":       {Memory: 2 << 30},
		"open files 91 of 100":          {Files: 91, MaxFiles: 100},
		"goroutines 1001 of 1000":       {Goroutines: 1001},
		"open files 5 of 5, goroutines": {Files: 5, MaxFiles: 5, Goroutines: 9999},
	} {
		if got := l.Over(u); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%+v: %q, want %q", u, got, want)
		}
	}
	if got := (Limits{}).Over(Usage{Memory: 1 << 60, Files: 9, MaxFiles: 1, Goroutines: 1 << 30}); got != "" {
		t.Errorf("without limits: %q", got)
	}
	if got := l.Over(Usage{Files: 5}); got != "" {
		t.Errorf("a limit that is not known: %q", got)
	}
}

// What the kernel tells of this process grows when it takes memory and files.
func TestUsageOf(t *testing.T) {
	debug.FreeOSMemory() // or the first garbage collection gives back what other tests took
	before := usageOf(os.Getpid())
	if before.Memory == 0 || before.Files == 0 || before.MaxFiles == 0 {
		t.Fatalf("usage %+v", before)
	}
	hold := make([]byte, 64<<20)
	for i := 0; i < len(hold); i += 4096 {
		hold[i] = 1
	}
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
	}
	after := usageOf(os.Getpid())
	if after.Memory < before.Memory+32<<20 || after.Files < before.Files+20 {
		t.Errorf("before %+v, with 64 MiB and 20 files more %+v", before, after)
	}
	if hold[4096] != 1 {
		t.Error("the memory is gone")
	}
	if u := usageOf(1 << 22); u != (Usage{}) {
		t.Errorf("no process uses %+v", u)
	}
}

func TestNoticeNeedsPatience(t *testing.T) {
	p := Policy{}.withDefaults()
	bad := errors.New("3 % free")
	h := NoticeHistory{}
	for i, c := range []struct {
		err error
		on  bool
	}{{bad, false}, {bad, false}, {nil, false}, {bad, true}, {nil, true}, {bad, true}, {nil, true}, {nil, false}, {bad, false}} {
		if h = h.Observe(p, c.err); h.On != c.on {
			t.Errorf("look %d: on is %v, want %v", i, h.On, c.on)
		}
	}
}
