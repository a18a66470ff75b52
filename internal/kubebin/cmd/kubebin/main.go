// Command kubebin makes sure that a set of programs exists, and prints the
// folder that holds it.
//
//	go run ./internal/kubebin/cmd/kubebin [--link PATH] [--where] [kube|node|kwok|peers]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/kubebin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Getenv)
	stop()
	exitcode.Print(os.Stderr, "kubebin", err)
	os.Exit(exitcode.Of(err))
}

const usage = `kubebin makes sure that a set of programs exists, and prints the folder that holds it.

  kubebin [FLAGS] [SET]

SET is kube (the default: the Kubernetes components), node (the kubelet of the
same release, for tests), kwok (nodes that are none, for tests) or peers (stock
etcd). It is built from source once and kept in the cache.

  HACTL_KUBE_BIN=DIR           use the programs in DIR (HACTL_NODE_BIN and so on alike)
  KUBE=release                 download the official Kubernetes release instead
  HACTL_KUBE_RELEASE_URL=URL   from there (default https://dl.k8s.io/release)
  HACTL_CACHE=DIR              the cache (default: hactl in the user's cache folder)

Flags:
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer, getenv func(string) string) error {
	fl := flag.NewFlagSet("kubebin", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	link := fl.String("link", "", "make `PATH` a symbolic link to the folder")
	where := fl.Bool("where", false, "only print the folder, build nothing")
	root := fl.String("root", "", "hactl's repository (default: the one around the working directory)")
	if err := fl.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stderr, usage)
			fl.SetOutput(stderr)
			fl.PrintDefaults()
			return nil
		}
		return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("kubebin --help")
	}
	if fl.NArg() > 1 {
		return exitcode.Errorf(exitcode.Usage, "one set at a time, got %q", fl.Args()).WithHint("kubebin --help")
	}
	if *root == "" {
		dir, err := kubebin.FindRoot(".")
		if err != nil {
			return exitcode.Errorf(exitcode.Usage, "%w", err).WithHint("run it in a clone, or give --root DIR")
		}
		*root = dir
	}
	set, err := setNamed(fl.Arg(0), *root)
	if err != nil {
		return err
	}
	store, err := kubebin.New(kubebin.Config{Stderr: stderr, Terminal: kubebin.IsTerminal(stderr, getenv), Getenv: getenv})
	if err != nil {
		return err
	}
	find := store.Find
	if *where {
		find = store.Where
	}
	dir, err := find(ctx, set)
	if err != nil {
		return err
	}
	if *link != "" && !*where {
		if err := kubebin.Link(*link, dir); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(stdout, dir)
	return err
}

func setNamed(name, root string) (kubebin.Set, error) {
	switch name {
	case "", "kube":
		return kubebin.Kube(root)
	case "node":
		return kubebin.Node(root)
	case "kwok":
		return kubebin.KWOK(root)
	case "peers":
		return kubebin.Peers(root)
	default:
		return kubebin.Set{}, exitcode.Errorf(exitcode.Usage, "no set %q", name).WithHint("kube, node, kwok or peers")
	}
}
