package etcdlock

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/hactl/hactl/internal/logging"
)

// DefaultHedgeAfter is how long one endpoint may take before the others are
// asked as well: above the p99 of a commit on a slow disk, and short enough that
// the second endpoint's answer comes within one renewal's period.
const DefaultHedgeAfter = 150 * time.Millisecond

// Config says how to reach an etcd cluster.
type Config struct {
	Endpoints  []string      // URLs, http or https; a bare host:port is https if TLS is set
	TLS        *tls.Config   // for https; see TLSFiles
	HedgeAfter time.Duration // default DefaultHedgeAfter
	Logger     *slog.Logger  // nil: none
}

// Client speaks to every endpoint of an etcd cluster over its own connection.
// It is safe for concurrent use.
type Client struct {
	endpoints []*endpoint
	preferred atomic.Int32 // index of the endpoint that answered last
	hedge     time.Duration
	log       *slog.Logger
}

type endpoint struct {
	name  string
	conn  *grpc.ClientConn
	kv    etcdserverpb.KVClient
	watch etcdserverpb.WatchClient
	lease etcdserverpb.LeaseClient
}

// Dial prepares the connections; it does not wait for any. Check does.
func Dial(cfg Config) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints")
	}
	c := &Client{hedge: cfg.HedgeAfter, log: cfg.Logger}
	if c.hedge <= 0 {
		c.hedge = DefaultHedgeAfter
	}
	if c.log == nil {
		c.log = logging.Discard()
	}
	var errs []error
	for _, raw := range cfg.Endpoints {
		ep, err := dialEndpoint(raw, cfg.TLS)
		if err != nil {
			errs = append(errs, fmt.Errorf("etcd endpoint %q: %w", raw, err))
			continue
		}
		c.endpoints = append(c.endpoints, ep)
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, c.Close())...)
	}
	return c, nil
}

func dialEndpoint(raw string, tlsConfig *tls.Config) (*endpoint, error) {
	hostport, secure, err := parseEndpoint(raw, tlsConfig != nil)
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if secure {
		if tlsConfig == nil {
			tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		creds = credentials.NewTLS(tlsConfig.Clone())
	}
	conn, err := grpc.NewClient("passthrough:///"+hostport,
		grpc.WithTransportCredentials(creds),
		// A member that comes back is used again within a second.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		// etcd refuses pings more often than each 5 s. This also sets
		// TCP_USER_TIMEOUT, so that a black hole is found by the next call's data.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithReadBufferSize(4<<10),
		grpc.WithWriteBufferSize(4<<10),
	)
	if err != nil {
		return nil, err
	}
	return &endpoint{
		name: raw, conn: conn,
		kv: etcdserverpb.NewKVClient(conn), watch: etcdserverpb.NewWatchClient(conn), lease: etcdserverpb.NewLeaseClient(conn),
	}, nil
}

// parseEndpoint splits a URL, or a bare host:port.
func parseEndpoint(raw string, haveTLS bool) (hostport string, secure bool, err error) {
	if !strings.Contains(raw, "://") {
		if haveTLS {
			raw = "https://" + raw
		} else {
			raw = "http://" + raw
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", false, err
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", false, fmt.Errorf("scheme %q: want http or https", u.Scheme)
	case u.Hostname() == "":
		return "", false, errors.New("no host")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.User != nil:
		return "", false, errors.New("want only scheme, host and port")
	case u.Scheme == "http" && haveTLS:
		return "", false, errors.New("http together with certificates: they would not be used; write https")
	}
	port := u.Port()
	if port == "" {
		port = "2379"
	}
	return net.JoinHostPort(u.Hostname(), port), u.Scheme == "https", nil
}

// Endpoints are the endpoints as they were given.
func (c *Client) Endpoints() []string {
	names := make([]string, len(c.endpoints))
	for i, ep := range c.endpoints {
		names[i] = ep.name
	}
	return names
}

// Close ends all connections.
func (c *Client) Close() error {
	var errs []error
	for _, ep := range c.endpoints {
		errs = append(errs, ep.conn.Close())
	}
	return errors.Join(errs...)
}

// connect makes every endpoint ready beforehand, so that asking a second one
// does not begin with a handshake.
func (c *Client) connect() {
	for _, ep := range c.endpoints {
		ep.conn.Connect()
	}
}

// Check asks every endpoint for one linearizable read and returns nil as soon as
// one answers; else what each said.
func (c *Client) Check(ctx context.Context) error {
	_, err := ask(ctx, c, false, func(ctx context.Context, ep *endpoint) (*etcdserverpb.RangeResponse, error) {
		return ep.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(Root), CountOnly: true})
	})
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	return nil
}

// Refused reports an error of Check that waiting will not mend: the certificates
// do not fit, or this client may not read.
func Refused(err error) bool {
	if hopeless(err) {
		return true
	}
	var unverified *tls.CertificateVerificationError
	// gRPC keeps of a failed handshake only the text.
	return errors.As(err, &unverified) || strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "x509: ")
}
