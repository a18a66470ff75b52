package etcdcluster

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap/zapcore"
)

// zapCore hands etcd's log lines to a slog.Handler.
type zapCore struct {
	handler       slog.Handler
	onServerError func(msg string) // nil: nobody asks
}

// Enabled tells whether lines of the level are looked at: all that are logged,
// and warnings, among which is the reason of a server's end.
func (c *zapCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel || c.logs(l) }

func (c *zapCore) logs(l zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), slogLevel(l))
}

// With returns a core that adds fields to every line.
func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{handler: c.handler.WithAttrs(attrs(fields)), onServerError: c.onServerError}
}

// Check adds the core to the line's writers when it is wanted.
func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.logs(e.Level) || e.Message == serverErrorLine {
		return ce.AddCore(e, c)
	}
	return ce
}

// serverErrorLine is the message with which etcd's server says why it stops.
const serverErrorLine = "server error"

// Write hands one line on.
func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	as := attrs(fields)
	if e.Message == serverErrorLine && c.onServerError != nil {
		for _, a := range as {
			if a.Key == "err" {
				c.onServerError(a.Value.String())
			}
		}
	}
	if !c.logs(e.Level) {
		return nil
	}
	r := slog.NewRecord(e.Time, slogLevel(e.Level), e.Message, 0)
	r.AddAttrs(as...)
	if e.LoggerName != "" {
		r.AddAttrs(slog.String("logger", e.LoggerName))
	}
	return c.handler.Handle(context.Background(), r)
}

// Sync does nothing: handlers do not buffer.
func (c *zapCore) Sync() error { return nil }

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l <= zapcore.DebugLevel:
		return slog.LevelDebug
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

func attrs(fields []zapcore.Field) []slog.Attr {
	as := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
			name := k
			if k == "error" {
				name = "err"
			}
			as = append(as, slog.Any(name, enc.Fields[k]))
		}
	}
	return as
}
