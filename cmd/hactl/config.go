package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/hactl/hactl/internal/config"
	"github.com/hactl/hactl/internal/exitcode"
)

func configCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "see and check the cluster's configuration",
		Subcommands: []*cli.Command{
			{
				Name:  "print-defaults",
				Usage: "print a commented file with every field and its default",
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					_, err := e.stdout.Write(config.DefaultsYAML())
					return err
				},
			},
			{
				Name:      "validate",
				Usage:     "check the configuration and tell all faults at once",
				ArgsUsage: "[FILE [DROP-IN…]]",
				Description: "Without FILE: the machine's /etc/hactl/cluster.yaml with its drop-ins. Exit code 2 when it is not valid.\n" +
					"Faults and warnings go to stderr; with -o json they go to stdout (docs/config.md has the shape).",
				Flags:  []cli.Flag{rootFlag(), jsonFlag("text")},
				Action: func(c *cli.Context) error { return configValidate(c, e) },
			},
			renderUnitsCommand(e),
			{
				Name:  "show",
				Usage: "print the configuration in force: the file, its drop-ins and the defaults together",
				Flags: []cli.Flag{rootFlag()},
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					cluster, err := config.Load(layoutOf(c))
					if err != nil {
						return err
					}
					data, err := config.Marshal(cluster)
					if err != nil {
						return err
					}
					_, err = e.stdout.Write(data)
					return err
				},
			},
		},
	}
}

// noArguments refuses arguments of a command that takes none.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return exitcode.Errorf(exitcode.Usage, "%s takes no arguments, and got %q", c.Command.FullName(), c.Args().First()).
			WithHint("%s --help", c.Command.HelpName)
	}
	return nil
}

// jsonFlag is -o of the commands that print either for people or as JSON.
func jsonFlag(human string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: human, EnvVars: []string{"HACTL_OUTPUT"}, Usage: human + " or json"}
}

// wantsJSON reads jsonFlag(human).
func wantsJSON(c *cli.Context, human string) (bool, error) {
	switch o := c.String("output"); o {
	case human:
		return false, nil
	case "json":
		return true, nil
	default:
		return false, exitcode.Errorf(exitcode.Usage, "unknown output %q", o).WithHint("-o %s or -o json", human)
	}
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// validateReport is `config validate -o json`: a contract, see docs/config.md.
type validateReport struct {
	Valid    bool          `json:"valid"`
	Faults   []configFault `json:"faults"`
	Warnings []configFault `json:"warnings"`
}

type configFault struct {
	Path    string `json:"path"`
	Value   string `json:"value"`
	At      string `json:"at"`
	Problem string `json:"problem"`
}

func configFaults(faults []*config.FieldError) []configFault {
	all := []configFault{}
	for _, f := range faults {
		all = append(all, configFault{f.Path, f.Value, f.At, f.Err.Error()})
	}
	return all
}

func configValidate(c *cli.Context, e *env) error {
	asJSON, err := wantsJSON(c, "text")
	if err != nil {
		return err
	}
	l := layoutOf(c)
	name := l.ConfigFile()
	var cluster *config.Cluster
	if c.Args().Present() {
		name = c.Args().First()
		cluster, err = config.LoadFiles(name, c.Args().Tail()...)
	} else {
		cluster, err = config.Load(l)
	}
	faults := config.FieldErrors(err)
	if err != nil && len(faults) == 0 {
		return err // not read at all
	}
	var warnings []*config.FieldError
	if cluster != nil {
		warnings = cluster.Warnings()
	}
	if asJSON {
		if werr := writeJSON(e.stdout, validateReport{err == nil, configFaults(faults), configFaults(warnings)}); werr != nil {
			return werr
		}
	}
	if err != nil {
		if asJSON {
			return exitcode.Errorf(exitcode.Usage, "%s is not valid", name)
		}
		lines := make([]string, len(faults))
		for i, f := range faults {
			lines[i] = "  " + f.Error()
		}
		return exitcode.Errorf(exitcode.Usage, "%s is not valid:\n%s", name, strings.Join(lines, "\n")).
			WithHint("hactl config print-defaults shows every field")
	}
	for _, w := range warnings {
		fmt.Fprintf(e.stderr, "warning: %s\n", w)
	}
	if !asJSON {
		fmt.Fprintf(e.stdout, "%s is valid: cluster %s, %s\n", name, cluster.Name, mastersInWords(cluster))
	}
	return nil
}

func mastersInWords(c *config.Cluster) string {
	if c.Discovery != nil {
		return fmt.Sprintf("%d masters by discovery", c.Discovery.Expect)
	}
	names := make([]string, len(c.Masters))
	for i, m := range c.Masters {
		names[i] = m.Name
	}
	if len(names) == 1 {
		return "1 master: " + names[0]
	}
	return fmt.Sprintf("%d masters: %s", len(names), strings.Join(names, ", "))
}
