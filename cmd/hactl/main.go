// Command hactl builds and keeps highly available Kubernetes control planes.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/hactl/hactl/internal/exitcode"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	app := newApp(e)
	err := app.RunContext(ctx, flagsFirst(app, os.Args))
	exitcode.Print(os.Stderr, "hactl", err)
	stop()
	os.Exit(exitcode.Of(err))
}
