//go:build faults || lab

package lease

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/lease"
)

// workEnv tells the test binary to be the work: MODE,LOG,GATE, and by how much the
// clock of its time namespace is ahead, if it has one of its own.
const workEnv = "HACTL_FAULTS_WORK"

// The work's modes.
const (
	plain     = "plain"
	stubborn  = "stubborn"  // ignores SIGTERM
	daemonize = "daemonize" // a daemon goes on writing for it
	daemon    = "daemon"    // that daemon
)

// work writes every 5 ms until it is killed.
func work(spec string) error {
	parts := strings.Split(spec, ",")
	mode, file, gate := parts[0], parts[1], parts[2]
	ahead := time.Duration(0)
	if len(parts) > 3 {
		var err error
		if ahead, err = time.ParseDuration(parts[3]); err != nil {
			return err
		}
	}
	switch mode {
	case stubborn:
		signal.Ignore(syscall.SIGTERM)
	case daemonize:
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), workEnv+"="+strings.Join([]string{daemon, file, gate, ahead.String()}, ","))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		for {
			time.Sleep(time.Hour) // select {} is a deadlock where nothing else goes on
		}
	}
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	token := cmp.Or(os.Getenv("PODMASTER_TOKEN"), "0") // 0: nobody has permitted it
	holder := cmp.Or(os.Getenv("PODMASTER_HOLDER"), "-")
	lines := make(chan string, 1)
	go send(gate, lines)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if _, err := fmt.Fprintf(log, "%s %s %d %d\n", token, holder, lease.Boottime{}.Now()-ahead, os.Getpid()); err != nil {
			continue // a full disk is no reason to stop
		}
		select {
		case lines <- token + "\n":
		default:
		}
	}
}

func send(gate string, lines <-chan string) {
	var conn net.Conn
	for line := range lines {
		if conn == nil {
			c, err := net.Dial("tcp", gate)
			if err != nil {
				continue
			}
			conn = c
		}
		if _, err := conn.Write([]byte(line)); err != nil {
			_ = conn.Close()
			conn = nil
		}
	}
}

// record is one line of the work's log.
type record struct {
	token  int64
	holder string // "-": it was not told
	at     time.Duration
	pid    int
}

func readLog(t *testing.T, file string) []record {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var out []record
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 4 || !strings.HasSuffix(line, "\n") {
			continue // being written
		}
		token, err1 := strconv.ParseInt(f[0], 10, 64)
		at, err2 := strconv.ParseInt(f[2], 10, 64)
		pid, err3 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil && err3 == nil {
			out = append(out, record{token, f[1], time.Duration(at), pid})
		}
	}
	return out
}
