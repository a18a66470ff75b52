package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/pki"
)

func kubeconfigCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "kubeconfig",
		Usage: "print a kubeconfig of this cluster",
		Description: "Prints the kubeconfig that this master has for the user, which holds a client key: keep it as a secret.\n" +
			"    (umask 077 && hactl kubeconfig --server https://k8s.example.com:6443 > ~/.kube/config)",
		Flags: []cli.Flag{
			rootFlag(),
			&cli.StringFlag{Name: "server", EnvVars: []string{"HACTL_SERVER"}, Usage: "`URL` of the API; default: frontDoor.host, or else this master's balancer"},
			&cli.StringFlag{Name: "user", Value: "admin", EnvVars: []string{"HACTL_USER"}, Usage: strings.Join(kubeconfigNames, ", ")},
		},
		Action: func(c *cli.Context) error { return kubeconfigPrint(c, e) },
	}
}

func kubeconfigPrint(c *cli.Context, e *env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	l, user, server := layoutOf(c), c.String("user"), c.String("server")
	if !slices.Contains(kubeconfigNames, user) {
		return exitcode.Errorf(exitcode.Usage, "there is no kubeconfig for user %q", user).WithHint("--user %s", strings.Join(kubeconfigNames, ", --user "))
	}
	if server != "" {
		if u, err := url.Parse(server); err != nil || u.Scheme != "https" || u.Host == "" {
			return exitcode.Errorf(exitcode.Usage, "--server %q is not an https:// URL", server).WithHint("--server https://k8s.example.com:6443")
		}
	} else {
		switch cluster, err := config.Load(l); {
		case err == nil && cluster.FrontDoor.Host != "":
			server = "https://" + cluster.FrontDoorAddress(config.Master{})
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	path := l.Kubeconfig(user)
	data, err := os.ReadFile(path)
	if err != nil {
		return pkiHint(fmt.Errorf("read the kubeconfig: %w", err))
	}
	if server == "" {
		_, err = e.stdout.Write(data)
		return err
	}
	k, err := pki.ParseKubeconfig(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	k.Server = server
	if data, err = k.Marshal(); err != nil {
		return err
	}
	_, err = e.stdout.Write(data)
	return err
}
