package child

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// message is what a process said with sd_notify(3). Fields that hactl has no
// use for are dropped.
type message struct {
	ready, stopping, ping, trigger bool
	status                         *string
	extend                         time.Duration // EXTEND_TIMEOUT_USEC
	watchdog                       time.Duration // WATCHDOG_USEC: a new period
}

// maxMessage is the longest message in bytes; systemd has the same limit.
const maxMessage = 4096

// parseMessage reads lines of KEY=value. Unknown keys and values that make no
// sense are ignored, as sd_notify(3) asks.
func parseMessage(b []byte) message {
	var m message
	for line := range strings.SplitSeq(string(b), "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "READY":
			m.ready = m.ready || value == "1"
		case "STOPPING":
			m.stopping = m.stopping || value == "1"
		case "WATCHDOG":
			m.ping = m.ping || value == "1"
			m.trigger = m.trigger || value == "trigger"
		case "STATUS":
			s := strings.ToValidUTF8(value, "?")
			m.status = &s
		case "EXTEND_TIMEOUT_USEC":
			m.extend = max(m.extend, micros(value))
		case "WATCHDOG_USEC":
			m.watchdog = max(m.watchdog, micros(value))
		}
	}
	return m
}

// micros parses a positive number of microseconds; 0 for anything else and for
// more than a day.
func micros(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > uint64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// listenNotify opens the datagram socket at path for this user alone; the
// kernel adds the sender's credentials to each message.
func listenNotify(ctx context.Context, path string) (*net.UnixConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = errors.Join(unix.Fchmod(int(fd), 0o600), // the mode that bind gives the file
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
		})
		return errors.Join(cerr, err)
	}}
	conn, err := lc.ListenPacket(ctx, "unixgram", path)
	if err != nil {
		return nil, fmt.Errorf("listen for notifications: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

// readNotify hands every message with its sender's pid to deliver, until conn
// is closed. deliver must not block.
func readNotify(conn *net.UnixConn, log *slog.Logger, deliver func(pid int, m message)) {
	buf := make([]byte, maxMessage+1)
	oob := make([]byte, 256)
	for {
		n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Warn("reading a notification", "err", err)
			time.Sleep(10 * time.Millisecond) // a lasting error must not spin
			continue
		}
		pid, err := senderPID(oob[:oobn])
		if err != nil || n > maxMessage || flags&unix.MSG_TRUNC != 0 {
			log.Warn("notification ignored", "size", n, "err", err)
			continue
		}
		deliver(pid, parseMessage(buf[:n]))
	}
}

// senderPID takes the kernel's credentials out of a control message and closes
// descriptors that came along.
func senderPID(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, fmt.Errorf("control message: %w", err)
	}
	pid := 0
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET {
			continue
		}
		switch msgs[i].Header.Type {
		case unix.SCM_CREDENTIALS:
			cred, err := unix.ParseUnixCredentials(&msgs[i])
			if err != nil {
				return 0, fmt.Errorf("credentials: %w", err)
			}
			pid = int(cred.Pid)
		case unix.SCM_RIGHTS:
			fds, _ := unix.ParseUnixRights(&msgs[i])
			for _, fd := range fds {
				_ = os.NewFile(uintptr(fd), "notify").Close()
			}
		}
	}
	if pid <= 0 {
		return 0, errors.New("no credentials")
	}
	return pid, nil
}
