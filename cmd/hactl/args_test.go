package main

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestFlagsFirst(t *testing.T) {
	app := &cli.App{
		Flags: []cli.Flag{&cli.BoolFlag{Name: "quiet"}},
		Commands: []*cli.Command{{
			Name: "dev",
			Subcommands: []*cli.Command{
				{Name: "logs", Flags: []cli.Flag{&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}}, &cli.StringFlag{Name: "dir"}}},
				{Name: "raw", SkipFlagParsing: true},
			},
		}},
	}
	cases := []struct{ in, want string }{
		{"hactl", "hactl"},
		{"hactl dev logs m1 -f", "hactl dev logs -f m1"},
		{"hactl dev logs m1 etcd --dir /x -f", "hactl dev logs --dir /x -f m1 etcd"},
		{"hactl dev logs m1 --dir=/x", "hactl dev logs --dir=/x m1"},
		{"hactl --quiet dev logs m1", "hactl --quiet dev logs m1"},
		{"hactl dev logs m1 -- -f", "hactl dev logs m1 -- -f"},
		{"hactl dev raw m1 -f", "hactl dev raw m1 -f"},
		{"hactl dev logs m1 --nope x", "hactl dev logs --nope m1 x"}, // refused as unknown by the parser
		{"hactl dev logs logs", "hactl dev logs logs"},
		{"hactl dev logs -", "hactl dev logs -"},
		{"hactl dev logs m1 --dir", "hactl dev logs --dir m1"},
	}
	for _, c := range cases {
		if got := strings.Join(flagsFirst(app, strings.Fields(c.in)), " "); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.in, got, c.want)
		}
	}
}
