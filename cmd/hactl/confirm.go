package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/hactl/hactl/internal/exitcode"
)

// confirm asks on the terminal before something is destroyed. Without a
// terminal it refuses: a script must say --yes.
func confirm(e *env, question string) (bool, error) {
	if f, ok := e.stdin.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return false, exitcode.Errorf(exitcode.Refused, "%s Not asking without a terminal", question).WithHint("the same command with --yes")
	}
	return ask(e.stdin, e.stderr, question)
}

func ask(in io.Reader, out io.Writer, question string) (bool, error) {
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && line == "" {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	default:
		fmt.Fprintln(out, "nothing was done")
		return false, nil
	}
}
