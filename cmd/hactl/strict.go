package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/exitcode"
	"github.com/hactl/hactl/internal/version"
)

// strict makes every command answer a wrong use with an error, exit code 2 and
// the command that is right. urfave/cli does not hand the application's
// OnUsageError down, prints the whole help on stdout instead, and takes an
// unknown subcommand for a wish for help.
func strict(commands []*cli.Command) []*cli.Command {
	for _, c := range commands {
		if c.OnUsageError == nil {
			c.OnUsageError = usageError
		}
		if len(c.Subcommands) == 0 {
			c.HideHelpCommand = true // "hactl status help" would be an argument
			answerVersion(c)
			continue
		}
		strict(c.Subcommands)
		if c.Action == nil {
			c.Action = unknownSubcommand
		}
	}
	return commands
}

// answerVersion makes a daemon's --version print and end, before anything else
// is looked at.
func answerVersion(c *cli.Command) {
	if !slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "version") }) {
		return
	}
	action := c.Action
	c.Action = func(ctx *cli.Context) error {
		if ctx.Bool("version") {
			_, err := fmt.Fprintln(ctx.App.Writer, "hactl", version.String())
			return err
		}
		return action(ctx)
	}
}

// unknownSubcommand is the action of a command that only has subcommands.
func unknownSubcommand(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowSubcommandHelp(c)
	}
	var names []string
	for _, sub := range c.Command.Subcommands {
		if !sub.Hidden && sub.Name != "help" {
			names = append(names, sub.Name)
		}
	}
	return exitcode.Errorf(exitcode.Usage, "no command %q in %s", c.Args().First(), c.Command.HelpName).
		WithHint("%s %s", c.Command.HelpName, strings.Join(names, "|"))
}
