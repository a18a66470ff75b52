package main

import (
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// wordsFlag collects values that may hold commas, which cli's own slices split.
type wordsFlag []string

func (w *wordsFlag) String() string { return strings.Join(*w, " ") }

// Set takes one value, or several separated by spaces (from the environment).
func (w *wordsFlag) Set(s string) error {
	*w = append(*w, strings.Fields(s)...)
	return nil
}

func words(c *cli.Context, name string) []string {
	if w, ok := c.Generic(name).(*wordsFlag); ok && w != nil {
		return *w
	}
	return nil
}

func lbRunCommand(e *env) *cli.Command {
	str := func(name, value, usage string) *cli.StringFlag {
		return &cli.StringFlag{Name: name, Value: value, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	dur := func(name string, value time.Duration, usage string) *cli.DurationFlag {
		return &cli.DurationFlag{Name: name, Value: value, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	num := func(name string, value int, usage string) *cli.IntFlag {
		return &cli.IntFlag{Name: name, Value: value, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	flag := func(name, usage string) *cli.BoolFlag {
		return &cli.BoolFlag{Name: name, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	list := func(name, usage string) *cli.GenericFlag {
		return &cli.GenericFlag{Name: name, Value: &wordsFlag{}, Usage: usage, EnvVars: []string{flagEnv(name)}}
	}
	return &cli.Command{
		Name:  "run",
		Usage: "balance connections to API servers, or to any TCP service",
		Description: "SIGTERM finishes gracefully, SIGHUP reads the list of backends anew, SIGUSR2 starts the program again\n" +
			"(an upgraded one too) and hands the listening sockets over. Sockets from systemd are used where --listen names them.",
		Flags: append([]cli.Flag{
			list("listen", "IP:port, :port or unix:/PATH; may be repeated; default with --from-masters: the master's front door"),
			list("backend", "ADDR[,name=N][,weight=N][,zone=Z]; ADDR is IP:port, name:port or unix:/PATH; may be repeated"),
			str("backends-file", "", "file with one backend on a line, followed while running"),
			flag("from-masters", "backends are the API servers of the masters in cluster.yaml, followed while running"),
			rootFlag(),
			str("name", "", "this master's name"),
			str("check", "https", "https, tcp or none"),
			str("check-path", "/readyz", "for --check https"),
			str("check-name", "kubernetes", "name that the backends' certificates must have"),
			str("ca-file", "", "CA of the backends' certificates; default: etc/kubernetes/pki/ca.crt under --root"),
			str("check-cert-file", "", "certificate that the checks show, for API servers that do not answer just anybody; with --check-key-file"),
			str("check-key-file", "", "its key"),
			str("check-token-file", "", "file with a bearer token that the checks show"),
			dur("check-interval", 500*time.Millisecond, "between two probes of a backend"),
			dur("check-timeout", time.Second, "a probe that takes longer has failed"),
			num("rise", 1, "good probes in a row that make a backend ready"),
			num("fall", 2, "bad probes in a row that take it out"),
			str("algorithm", "least-conn", "least-conn, round-robin, random2 or local-first"),
			str("zone", "", "the own zone, for local-first"),
			num("max-conns", 0, "bound of connections; 0: what the limit of open files carries"),
			num("max-conns-per-client", 0, "bound of connections from one IP address (IPv6: /64); 0: none"),
			dur("hello-timeout", 5*time.Second, "how long a client may take for its ClientHello"),
			dur("replay-after", 300*time.Millisecond, "a backend without a first byte for so long gets a competitor"),
			flag("replay-plain", "replay the first bytes of clients that do not speak TLS too: only for protocols where a repetition does no harm"),
			dur("dead-after", 5*time.Second, "a backend's machine that acknowledges nothing for so long is dead; negative: never"),
			str("rebalance", "", "share of connections that may be moved to a returned backend; 0: none; default: 1%/s with --check https, else none"),
			dur("slow-start", 10*time.Second, "a returned backend gets less than its share for so long; negative: none"),
			dur("drain-timeout", 10*time.Second, "how long connections may go on when the balancer stops or hands over"),
			num("loops", 0, "threads of the data path; 0: one a CPU"),
			adminFlag(),
			str("listen-metrics", "", "loopback address of metrics and health; default with --from-masters and --name: port 9445"),
		}, logFlags()...),
		Action: func(c *cli.Context) error { return runLB(c, e) },
	}
}

func flagEnv(name string) string {
	return "HACTL_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
