// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"expvar"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/coreos/go-systemd/v22/activation"
	sddaemon "github.com/coreos/go-systemd/v22/daemon"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/appcontext"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/tracing"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// serve runs the daemon until a signal ends ctx or a listener fails.
func serve(ctx context.Context, s *settings) (err error) {
	tel, err := newTelemetry(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(appcontext.Shutdown(), shutdownTimeout)
		defer cancel()
		err = errors.Join(err, tel.close(ctx))
	}()
	if s.GRPC.DebugAddress != "" {
		stop, err := serveDebug(s.GRPC.DebugAddress)
		if err != nil {
			return err
		}
		defer stop()
	}
	listeners, err := listen(s.GRPC)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	controller, err := newController(ctx, s, tel.meters)
	if err != nil {
		return err
	}
	defer controller.Close()

	server := grpc.NewServer(
		grpc.StatsHandler(tracing.ServerStatsHandler(
			otelgrpc.WithTracerProvider(tel.traces), otelgrpc.WithMeterProvider(tel.meters),
			otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})))),
		grpc.ChainUnaryInterceptor(logErrors, grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	healthv1.RegisterHealthServer(server, health.NewServer())
	controller.Register(server)
	reflection.Register(server)

	sddaemon.SdNotify(false, sddaemon.SdNotifyReady) // says nothing outside systemd
	failed := make(chan error, 1)
	var g errgroup.Group
	for _, l := range listeners {
		bklog.L.Infof("running server on %s", l.Addr())
		g.Go(func() error { return server.Serve(l) })
	}
	go func() { failed <- g.Wait() }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	bklog.L.Info("stopping server")
	sddaemon.SdNotify(false, sddaemon.SdNotifyStopping)
	server.GracefulStop()
	return err
}

func logErrors(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil && !strings.HasSuffix(info.FullMethod, "TraceService/Export") {
		bklog.G(ctx).Errorf("%s: %v", info.FullMethod, err)
	}
	return resp, err
}

func listen(c config.GRPCConfig) (out []net.Listener, err error) {
	secure, err := serverTLS(c.TLS)
	if err != nil {
		return nil, err
	}
	for _, addr := range c.Address {
		l, err := listenOn(addr, *c.UID, *c.GID, secure)
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func listenOn(addr string, uid, gid int, secure *tls.Config) (net.Listener, error) {
	network, where, ok := strings.Cut(addr, "://")
	if !ok {
		return nil, fmt.Errorf("has no scheme; unix://%s may be meant", addr)
	}
	switch network {
	case "unix":
		return sys.GetLocalListener(where, uid, gid)
	case "fd":
		return inherited(where, secure)
	case "tcp":
		l, err := net.Listen("tcp", where)
		if err != nil || secure == nil {
			if err == nil && !loopback(l.Addr()) {
				bklog.L.Warnf("%s is open to everyone who reaches it: TLS is not set up", addr)
			}
			return l, err
		}
		return tls.NewListener(l, secure), nil
	}
	return nil, fmt.Errorf("scheme %s is none of unix, tcp, fd", network)
}

func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// inherited takes the first socket that systemd passes.
func inherited(where string, secure *tls.Config) (net.Listener, error) {
	if where != "" {
		return nil, errors.New("sockets cannot be chosen; fd:// takes the first")
	}
	get := activation.Listeners
	if secure != nil {
		get = func() ([]net.Listener, error) { return activation.TLSListeners(secure) }
	}
	all, err := get()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("no socket was passed on; systemd must start the service")
	}
	return all[0], nil
}

// serverTLS is nil without certificate; with an authority clients must show one too.
func serverTLS(c config.TLSConfig) (*tls.Config, error) {
	if c.Cert == "" && c.Key == "" {
		return nil, nil
	}
	if c.Cert == "" || c.Key == "" {
		return nil, errors.New("certificate and key go together")
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	out := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		out.ClientCAs, out.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !out.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: holds no certificate", c.CA)
		}
	}
	return out, nil
}

// serveDebug serves metrics and profiles; who reaches the address may see them.
func serveDebug(addr string) (stop func(), err error) {
	if !strings.Contains(addr, "://") {
		addr = "tcp://" + addr
	}
	l, err := listenOn(addr, os.Getuid(), os.Getgid(), nil)
	if err != nil {
		return nil, fmt.Errorf("debug address: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.Handler())
	mux.Handle("/debug/vars", expvar.Handler())
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	bklog.L.Infof("debug handlers on %s", l.Addr())
	go server.Serve(l)
	return func() { server.Close() }, nil
}
