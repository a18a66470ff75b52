package workloadtest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/hactl/hactl/internal/workload"
)

const helperArg = "workloadtest-helper"

// Unit is a unit that runs the helper with the given flags:
//
//	-ready D       say READY=1 after D
//	-status S      say STATUS=S with it
//	-ping          ping the watchdog until SIGUSR1 comes
//	-ignore-term   go on after SIGTERM
//	-stop-time D   take D to end after SIGTERM
//	-exit N -after D   end by itself
//	-child         start a child in a process group of its own that ignores
//	               SIGTERM; it says READY=1 and pings too, which must not count
//	-say S         print S to standard output
func Unit(tb testing.TB, name string, flags ...string) workload.Unit {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return workload.Unit{
		Name: name, Description: "test unit " + name,
		Exec:        append([]string{exe, helperArg}, flags...),
		Env:         []string{"GORACE=atexit_sleep_ms=0"}, // under the race detector an exit would take a second
		StopTimeout: 5 * time.Second,
		LogFile:     tb.TempDir() + "/" + name + ".log",
	}
}

// Helper runs the units' program if args ask for it, and returns its exit code.
func Helper(args []string) (code int, ok bool) {
	if len(args) < 2 || args[1] != helperArg {
		return 0, false
	}
	fs := flag.NewFlagSet(helperArg, flag.ContinueOnError)
	h := helper{}
	fs.DurationVar(&h.ready, "ready", -1, "")
	fs.StringVar(&h.status, "status", "", "")
	fs.BoolVar(&h.ping, "ping", false, "")
	fs.BoolVar(&h.ignoreTerm, "ignore-term", false, "")
	fs.IntVar(&h.exit, "exit", -1, "")
	fs.DurationVar(&h.after, "after", 0, "")
	fs.BoolVar(&h.child, "child", false, "")
	fs.BoolVar(&h.grandchild, "grandchild", false, "")
	fs.StringVar(&h.say, "say", "", "")
	fs.DurationVar(&h.stopTime, "stop-time", 0, "")
	if err := fs.Parse(args[2:]); err != nil {
		return 2, true
	}
	return h.run(), true
}

type helper struct {
	ready, after, stopTime              time.Duration
	status, say                         string
	ping, ignoreTerm, child, grandchild bool
	exit                                int
}

func (h helper) run() int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
	if h.say != "" {
		fmt.Println(h.say)
	}
	if h.child {
		c := exec.Command(os.Args[0], helperArg, "-grandchild", "-ignore-term", "-ping", "-ready", "0s")
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := c.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	var ready, end, ping <-chan time.Time
	if h.ready >= 0 {
		ready = time.After(h.ready)
	}
	if h.exit >= 0 {
		end = time.After(h.after)
	}
	if period, err := daemon.SdWatchdogEnabled(false); h.ping && err == nil && period > 0 {
		ping = time.Tick(period / 4)
	}
	for {
		select {
		case s := <-signals:
			switch {
			case s == syscall.SIGUSR1:
				ping = nil
			case !h.ignoreTerm:
				time.Sleep(h.stopTime)
				return 0
			}
		case <-ready:
			state := []string{daemon.SdNotifyReady}
			if h.status != "" {
				state = append(state, "STATUS="+h.status)
			}
			if _, err := daemon.SdNotify(false, strings.Join(state, "\n")); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		case <-ping:
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		case <-end:
			return h.exit
		}
	}
}
