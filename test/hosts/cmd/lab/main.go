// Command lab brings up and disturbs several systemd hosts on one machine. See
// package hosts and docs/lab.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/hactl/hactl/internal/exitcode"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	err := newApp(e).RunContext(ctx, os.Args)
	exitcode.Print(e.stderr, "lab", err)
	stop()
	os.Exit(exitcode.Of(err))
}
