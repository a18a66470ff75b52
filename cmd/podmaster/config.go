package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"
)

func envName(flag string) []string {
	return []string{"PODMASTER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

// readConfig sets every flag that the file names and that neither the command
// line nor the environment has set. It returns the file's command.
func readConfig(c *cli.Context, file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("config %s: %w", file, err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("config %s:%d: want a mapping of flags to values", file, top.Line)
	}
	known := map[string]bool{}
	for _, f := range c.App.Flags {
		known[f.Names()[0]] = true
	}
	var command []string
	var errs []error
	seen := map[string]bool{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		err := func() error {
			switch {
			case seen[key.Value]:
				return errors.New("given twice")
			case key.Value == "command":
				return value.Decode(&command)
			case !known[key.Value] || key.Value == "config" || key.Value == "help" || key.Value == "version":
				return errors.New("no such field; the fields are the flags' names, and command")
			}
			text, err := scalar(value)
			if err != nil || c.IsSet(key.Value) {
				return err
			}
			return c.Set(key.Value, text)
		}()
		seen[key.Value] = true
		if err != nil {
			errs = append(errs, fmt.Errorf("config %s:%d: %s: %w", file, key.Line, key.Value, err))
		}
	}
	return command, errors.Join(errs...)
}

// scalar is a value as the command line would have it; a list is joined by commas.
func scalar(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		return n.Value, nil
	case yaml.SequenceNode:
		var parts []string
		if err := n.Decode(&parts); err != nil {
			return "", err
		}
		return strings.Join(parts, ","), nil
	default:
		return "", errors.New("want one value or a list")
	}
}
