package collect

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/hactl/hactl/internal/workload/child"
)

// noAnswer is what words and shorten say of every deadline that passed.
const noAnswer = "no answer in time"

// words says in a few words why something did not answer: people read them in a
// table, beside the object's name, so what they repeat is left out.
func words(err error) string {
	var (
		urlErr  *url.Error
		netErr  net.Error
		certErr x509.CertificateInvalidError
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &certErr) && certErr.Reason == x509.Expired:
		return "its certificate has expired or is not yet valid"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &netErr) && netErr.Timeout():
		return noAnswer
	case errors.Is(err, child.ErrUnreachable):
		return "not running"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return "connection cut"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route"
	case errors.As(err, &urlErr):
		return oneLine(urlErr.Err.Error())
	default:
		return shorten(err.Error())
	}
}

// shorten is words for an error of which only the text is left, as gRPC leaves it.
func shorten(text string) string {
	switch {
	case strings.Contains(text, "context deadline exceeded"), strings.Contains(text, "i/o timeout"), strings.Contains(text, "no answer"),
		strings.Contains(text, "error code: CANCEL"): // how a server ends a call whose deadline has passed
		return noAnswer
	case strings.Contains(text, "connection refused"):
		return "connection refused"
	case strings.Contains(text, "connection reset"), strings.Contains(text, "EOF"), strings.Contains(text, "broken pipe"):
		return "connection cut"
	case strings.Contains(text, "no route to host"), strings.Contains(text, "network is unreachable"):
		return "no route"
	}
	if _, rest, ok := strings.Cut(text, "authentication handshake failed: "); ok {
		text = strings.TrimSuffix(rest, `"`)
	}
	return oneLine(text)
}

// oneLine joins the lines of a text and bounds its length.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return s
}
