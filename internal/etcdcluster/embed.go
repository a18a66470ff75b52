package etcdcluster

import (
	"context"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
)

// What every member of ours does alike.
const (
	// corruptCheckEvery is how often the leader compares all data of all members.
	// That reads every key on each, and holds its writes up meanwhile, so it is
	// rare; the hashes of compactions, which Kubernetes asks for every five
	// minutes, are compared every compactCheckEvery.
	corruptCheckEvery = 24 * time.Hour
	compactCheckEvery = time.Minute
	// compactRetention is a net below the API servers, which compact what is
	// older than five minutes: history would grow for ever while none runs.
	compactRetention = "8h"
	snapshotCount    = 10_000      // entries between two Raft snapshots; etcd's own
	snapshotCatchUp  = 5_000       // entries kept for a slow follower; etcd's own
	maxRequestBytes  = 3 << 19     // 1.5 MiB, etcd's own and what Kubernetes expects
	serverPingEvery  = time.Minute // finds clients that vanished without a word, whose watches cost memory
	serverPingWait   = 20 * time.Second
)

// embedConfig translates cfg. Every stream to a client ends when streams does.
func (c Config) embedConfig(streams context.Context, how startPlan, lg *zap.Logger) (*embed.Config, error) {
	e := embed.NewConfig()
	e.Name, e.Dir = c.Name, c.DataDir
	for _, u := range []struct {
		text              string
		listen, advertise *[]url.URL
	}{
		{c.ClientURL, &e.ListenClientUrls, &e.AdvertiseClientUrls},
		{c.PeerURL, &e.ListenPeerUrls, &e.AdvertisePeerUrls},
		{c.MetricsURL, &e.ListenMetricsUrls, nil},
	} {
		if u.text == "" {
			continue
		}
		parsed, err := parseURL(u.text)
		if err != nil {
			return nil, err
		}
		*u.listen = []url.URL{*parsed}
		if u.advertise != nil {
			*u.advertise = []url.URL{*parsed}
		}
	}
	// With HTTP on a listener of its own the clients' port speaks gRPC only.
	// Shared, gRPC would run inside Go's HTTP/2 server, in which watches starve
	// under load (etcd-io/etcd#15402). An abstract socket needs no file.
	e.ListenClientHttpUrls = []url.URL{{Scheme: "unix", Host: "@hactl-etcd-" + strings.TrimPrefix(strings.TrimPrefix(c.ClientURL, "https://"), "http://")}}
	e.EnableGRPCGateway = false

	e.ClientTLSInfo = c.ServerTLS.info()
	e.PeerTLSInfo = c.PeerTLS.info()
	if c.PeerTLS.Cert != "" {
		e.PeerTLSInfo.AllowedHostnames = []string{peerCertName}
	}
	e.TlsMinVersion = "TLS1.3"

	e.ClusterState, e.InitialCluster, e.InitialClusterToken = how.state, how.initialCluster, how.token
	e.TickMs, e.ElectionMs = uint(c.Heartbeat.Milliseconds()), uint(c.Election.Milliseconds())
	e.PreVote, e.StrictReconfigCheck, e.InitialElectionTickAdvance = true, true, true
	e.MaxLearners = 1
	e.QuotaBackendBytes = c.Quota
	e.MaxRequestBytes = maxRequestBytes
	e.SnapshotCount, e.SnapshotCatchUpEntries = snapshotCount, snapshotCatchUp
	e.AutoCompactionMode, e.AutoCompactionRetention = embed.CompactorModePeriodic, compactRetention
	e.CorruptCheckTime, e.CompactHashCheckTime = corruptCheckEvery, compactCheckEvery
	e.UnsafeNoFsync = c.NoFsync
	e.GRPCKeepAliveInterval, e.GRPCKeepAliveTimeout = serverPingEvery, serverPingWait
	// A restart must not wait for the old connections' ends; two processes on one
	// port must never be.
	e.SocketOpts = transport.SocketOpts{ReuseAddress: true, ReusePort: false}

	gates := featuregate.New("hactl", lg)
	if err := gates.Add(features.DefaultEtcdServerFeatureGates); err != nil {
		return nil, err
	}
	if err := gates.SetFromMap(map[string]bool{
		string(features.InitialCorruptCheck): false, // see Member.compare
		string(features.CompactHashCheck):    true,
		// Peers check the address that a connection comes from; a machine with
		// several must use the one in its certificate.
		string(features.SetMemberLocalAddr): ownAddress(e.ListenPeerUrls[0].Hostname()),
	}); err != nil {
		return nil, err
	}
	e.ServerFeatureGate = gates

	e.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(endWith(streams))}
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(lg)
	return e, nil
}

func (f TLSFiles) info() transport.TLSInfo {
	if f.Cert == "" {
		return transport.TLSInfo{}
	}
	return transport.TLSInfo{CertFile: f.Cert, KeyFile: f.Key, TrustedCAFile: f.CA, ClientCertAuth: true}
}

// endWith ends each stream with ctx, and lets its client go to another member.
// Without it an open watch would hold up the closing of the server for seconds.
func endWith(ctx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		sctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		err := handler(srv, &stream{ServerStream: ss, ctx: sctx})
		if ctx.Err() != nil {
			return rpctypes.ErrGRPCStopped // "unavailable"; else a client takes it for its own wish
		}
		return err
	}
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the stream's context, which ends with the server too.
func (s *stream) Context() context.Context { return s.ctx }

// zapLogger lets etcd log through cfg.Logger. onError is told the errors that
// etcd logs as the reason of its end.
func (c Config) zapLogger(onError func(string)) *zap.Logger {
	core := &zapCore{handler: c.Logger.Handler(), onServerError: onError}
	return zap.New(core, zap.WithFatalHook(fatalHook{c.Notify}))
}

// fatalHook tells the supervisor why etcd ends the process, and lets it: after a
// failed write to the disk nothing that the process would do is safe.
type fatalHook struct{ notify func(string) }

// OnWrite is called when the message has been logged; it does not return.
func (h fatalHook) OnWrite(ce *zapcore.CheckedEntry, fields []zapcore.Field) {
	msg := ce.Message
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			msg += ": " + err.Error()
		}
	}
	h.notify("STATUS=etcd ended the process: " + oneLine(msg))
	_ = os.Stderr.Sync()
	zapcore.WriteThenFatal.OnWrite(ce, fields)
}

// ownAddress tells whether host is an address of this machine, as it is not
// behind address translation.
func ownAddress(host string) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(net.ParseIP(host)) {
			return true
		}
	}
	return false
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
