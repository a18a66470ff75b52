package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// spec is all that a member needs to start; as JSON it goes to a member process.
type spec struct {
	Name           string
	Dir            string
	Address        string
	InitialCluster string
	Token          string
	New            bool // false: joins an existing cluster
	Heartbeat      time.Duration
	Election       time.Duration
	Quota          int64
	Fsync          bool
	TLS            Files // empty: no TLS
	LogFile        string
}

func (s spec) scheme() string {
	if s.TLS.CA == "" {
		return "http"
	}
	return "https"
}

func (s spec) clientURL() url.URL {
	return url.URL{Scheme: s.scheme(), Host: s.Address + ":2379"}
}

func (s spec) peerURL() url.URL {
	return url.URL{Scheme: s.scheme(), Host: s.Address + ":2380"}
}

func (s spec) metricsURL() url.URL {
	return url.URL{Scheme: "http", Host: s.Address + ":2381"}
}

func (s spec) embedConfig(streams context.Context) (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = s.Name, s.Dir
	cfg.ListenClientUrls = []url.URL{s.clientURL()}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = []url.URL{s.peerURL()}
	cfg.AdvertisePeerUrls = cfg.ListenPeerUrls
	cfg.ListenMetricsUrls = []url.URL{s.metricsURL()}
	cfg.InitialCluster = s.InitialCluster
	cfg.InitialClusterToken = s.Token
	cfg.ClusterState = embed.ClusterStateFlagExisting
	if s.New {
		cfg.ClusterState = embed.ClusterStateFlagNew
	}
	cfg.TickMs, cfg.ElectionMs = uint(s.Heartbeat.Milliseconds()), uint(s.Election.Milliseconds())
	cfg.QuotaBackendBytes = s.Quota
	cfg.UnsafeNoFsync = !s.Fsync
	cfg.EnableGRPCGateway = false
	if s.TLS.CA != "" {
		info := transport.TLSInfo{
			CertFile: s.TLS.Cert, KeyFile: s.TLS.Key, TrustedCAFile: s.TLS.CA, ClientCertAuth: true,
		}
		cfg.ClientTLSInfo, cfg.PeerTLSInfo = info, info
	}
	// Open streams would hold up Close for seconds.
	cfg.GRPCAdditionalServerOptions = []grpc.ServerOption{
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			ctx, cancel := context.WithCancel(ss.Context())
			defer cancel()
			defer context.AfterFunc(streams, cancel)()
			err := handler(srv, &stream{ServerStream: ss, ctx: ctx})
			if streams.Err() != nil {
				return rpctypes.ErrGRPCStopped // else a client takes the end of its watch for its own wish
			}
			return err
		}),
	}
	lg := zap.NewNop()
	if s.LogFile != "" {
		zc := zap.NewProductionConfig()
		zc.DisableStacktrace = true
		zc.OutputPaths, zc.ErrorOutputPaths = []string{s.LogFile}, []string{s.LogFile}
		var err error
		if lg, err = zc.Build(); err != nil {
			return nil, err
		}
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(lg)
	return cfg, nil
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }

// embedded is a member in this process.
type embedded struct {
	spec spec

	mu         sync.Mutex
	e          *embed.Etcd
	endStreams context.CancelFunc
}

func (m *embedded) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	cfg, err := m.spec.embedConfig(ctx)
	if err != nil {
		cancel()
		return err
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		cancel()
		return fmt.Errorf("start member %s: %w", m.spec.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.e, m.endStreams = e, cancel
	return nil
}

func (m *embedded) running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.e != nil
}

func (m *embedded) stop() error { return m.end(false) }

// kill gives leadership to nobody: the other members see silence.
func (m *embedded) kill() error { return m.end(true) }

func (m *embedded) end(hard bool) error {
	m.mu.Lock()
	e, endStreams := m.e, m.endStreams
	m.e = nil
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	select {
	case <-e.Server.ReadyNotify():
	default:
		hard = true // Close would wait for listeners that wait for a quorum
	}
	if hard {
		e.Server.HardStop()
	}
	endStreams()
	e.Close()
	return nil
}

func (m *embedded) pause() error {
	return errors.New("a member in the test's own process cannot be paused: use StartProcesses")
}

func (m *embedded) resume() error { return m.pause() }
