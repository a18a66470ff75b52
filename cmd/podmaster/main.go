// Command podmaster runs a program once in a cluster, and fences it.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/singleton"
)

func main() {
	debug.SetGCPercent(40) // a waiting podmaster allocates little, and shall stay small
	if len(os.Args) == 2 && os.Args[1] == singleton.GuardArg {
		err := singleton.GuardMain(releaseOrphan)
		exitcode.Print(os.Stderr, "podmaster guard", err)
		os.Exit(exitcode.Of(err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	err := newApp(e).RunContext(ctx, os.Args)
	exitcode.Print(os.Stderr, "podmaster", err)
	os.Exit(exitcode.Of(err))
}
