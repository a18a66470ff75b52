package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst moves flags that stand behind a command's arguments before them,
// since urfave/cli stops reading flags at the first argument while people type
// `hactl dev logs m1 -f`. What follows "--" stays where it is.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	out := []string{args[0]}
	commands, flags := app.Commands, app.Flags
	rest := args[1:]
	var positional []string
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		switch {
		case arg == "--":
			return append(append(append(out, positional...), arg), rest...)
		case strings.HasPrefix(arg, "-") && arg != "-":
			out = append(out, arg)
			if len(rest) > 0 && takesNext(flags, arg) {
				out = append(out, rest[0])
				rest = rest[1:]
			}
		case len(positional) == 0 && find(commands, arg) != nil:
			c := find(commands, arg)
			out = append(out, arg)
			commands, flags = c.Subcommands, c.Flags
			if c.SkipFlagParsing {
				return append(out, rest...)
			}
		default:
			positional = append(positional, arg)
		}
	}
	return append(out, positional...)
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// takesNext says whether the flag typed as arg has its value in the next
// argument.
func takesNext(flags []cli.Flag, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isBool := f.(*cli.BoolFlag)
			return !isBool
		}
	}
	return false
}
