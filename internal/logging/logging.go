// Package logging makes the one slog.Logger that a process has, and bridges the
// loggers of the libraries that bring their own.
//
// Fixed keys, used by every package: master, member, unit, backend, token, took, err.
package logging

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
)

// Config says how a process logs.
type Config struct {
	Level  string // debug, info (default), warn, error
	Format string // text (default) or json
}

// New returns a logger that writes to w. It errs on an unknown level or format.
func New(w io.Writer, cfg Config) (*slog.Logger, error) {
	var level slog.Level
	if cfg.Level != "" {
		if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
			return nil, fmt.Errorf("log level %q: want debug, info, warn or error", cfg.Level)
		}
	}
	opts := &slog.HandlerOptions{Level: level}
	switch cfg.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, fmt.Errorf("log format %q: want text or json", cfg.Format)
	}
}

// Discard returns a logger that drops everything; for tests and optional fields.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Std bridges a library that wants a *log.Logger, such as memberlist, whose
// lines begin with "[ERR]", "[WARN]", "[INFO]" or "[DEBUG]".
func Std(l *slog.Logger) *log.Logger { return log.New(stdWriter{l}, "", 0) }

type stdWriter struct{ l *slog.Logger }

func (w stdWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelInfo
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if tag, msg, ok := strings.Cut(rest, "]"); ok {
			switch tag {
			case "ERR", "ERROR":
				level = slog.LevelError
			case "WARN":
				level = slog.LevelWarn
			case "DEBUG":
				level = slog.LevelDebug
			}
			line = strings.TrimSpace(msg)
		}
	}
	w.l.Log(context.Background(), level, line) //nolint:sloglint // a bridge has no constant message
	return len(p), nil
}
