// Command podwork is what the lab's pods run. It must find nothing in its image
// but itself.
//
//	podwork pause               a sandbox: waits for SIGTERM
//	podwork work FILE LINGER    appends "BEGAN NOW PID" to FILE every 5 ms, and
//	                            after SIGTERM for LINGER more
//
// BEGAN and NOW are CLOCK_BOOTTIME in ns, so that BEGAN names a process among all
// of a machine's, in the order of their starts.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hactl/hactl/internal/lease"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "podwork:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	switch {
	case len(args) == 1 && args[0] == "pause":
		<-stop
		return nil
	case len(args) == 3 && args[0] == "work":
		linger, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return work(args[1], linger, stop)
	default:
		return errors.New("usage: podwork pause | podwork work FILE LINGER")
	}
}

func work(file string, linger time.Duration, stop <-chan os.Signal) error {
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	clock := lease.Boottime{}
	began := clock.Now()
	fmt.Println("podwork began at", began)
	end := (<-chan time.Time)(nil)
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if _, err := fmt.Fprintf(log, "%d %d %d\n", began, clock.Now(), os.Getpid()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-stop:
			end = time.After(linger)
		case <-end:
			return log.Close()
		}
	}
}
