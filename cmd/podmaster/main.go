// Command podmaster runs a program once in a cluster, and fences it.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/hactl/hactl/internal/exitcode"
)

func main() {
	debug.SetGCPercent(40) // a waiting podmaster allocates little, and shall stay small
	if err, done := hiddenMain(os.Args); done {
		exitcode.Print(os.Stderr, "podmaster "+os.Args[1], err)
		os.Exit(exitcode.Of(err))
	}
	// It waits for one thing at a time: a second processor slot would only cost
	// wake-ups and memory.
	runtime.GOMAXPROCS(1)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	err := newApp(e).RunContext(ctx, os.Args)
	exitcode.Print(os.Stderr, "podmaster", err)
	os.Exit(exitcode.Of(err))
}
