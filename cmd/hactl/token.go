package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/pki"
)

// defaultTokenTTL is long enough to bring up a cluster, and short enough that a
// token which lies around is worth nothing soon.
const defaultTokenTTL = 24 * time.Hour

func tokenCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "token",
		Usage: "make the cluster's shared secret",
		Subcommands: []*cli.Command{
			{
				Name:  "create",
				Usage: "print a new token: 32 random bytes with a check sum",
				Description: "Nothing is stored. Keep it readable by root only, the same on every master:\n" +
					"    (umask 077 && hactl token create > /etc/hactl/token)",
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					_, err := fmt.Fprintln(e.stdout, pki.NewToken(time.Now().Add(defaultTokenTTL)))
					return err
				},
			},
		},
	}
}
