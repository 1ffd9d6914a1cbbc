// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/moby/buildkit/util/tracing"
	"github.com/moby/buildkit/util/tracing/detect"
	"github.com/moby/buildkit/util/tracing/transform"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// telemetry is where traces and metrics go: to whom the environment names, and
// metrics to Prometheus.
type telemetry struct {
	traces *sdktrace.TracerProvider
	meters *sdkmetric.MeterProvider
}

func newTelemetry(ctx context.Context) (*telemetry, error) {
	traceOpts := []sdktrace.TracerProviderOption{sdktrace.WithResource(detect.Resource()), sdktrace.WithSyncer(detect.Recorder)}
	spans, err := detect.NewSpanExporter(ctx)
	if err != nil {
		return nil, err
	}
	if !detect.IsNoneSpanExporter(spans) {
		traceOpts = append(traceOpts, sdktrace.WithBatcher(spans))
	}
	// Build times as an exponential histogram: one series in place of a hundred.
	durations := sdkmetric.NewView(
		sdkmetric.Instrument{Name: "buildkit.build.duration", Kind: sdkmetric.InstrumentKindHistogram},
		sdkmetric.Stream{
			Aggregation:     sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20},
			AttributeFilter: attribute.NewAllowKeysFilter("status"),
		})
	reader, err := prometheus.New()
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	meterOpts := []sdkmetric.Option{sdkmetric.WithResource(detect.Resource()), sdkmetric.WithView(durations), sdkmetric.WithReader(reader)}
	metrics, err := detect.NewMetricExporter(ctx)
	if err != nil {
		return nil, err
	}
	if !detect.IsNoneMetricExporter(metrics) {
		meterOpts = append(meterOpts, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(metrics)))
	}
	return &telemetry{sdktrace.NewTracerProvider(traceOpts...), sdkmetric.NewMeterProvider(meterOpts...)}, nil
}

func (t *telemetry) close(ctx context.Context) error {
	return errors.Join(t.traces.Shutdown(ctx), t.meters.Shutdown(ctx))
}

// collectTraces lets build containers hand in their spans at a socket.
func collectTraces(ctx context.Context, socket string) (tracing.MultiSpanExporter, error) {
	out := tracing.MultiSpanExporter{detect.Recorder}
	spans, err := detect.NewSpanExporter(ctx)
	if err != nil {
		return nil, err
	}
	if !detect.IsNoneSpanExporter(spans) {
		out = append(out, spans)
	}
	server := grpc.NewServer()
	tracev1.RegisterTraceServiceServer(server, &collector{exporter: out})
	l, err := openToAll(socket)
	if err != nil {
		return nil, fmt.Errorf("trace socket: %w", err)
	}
	go server.Serve(l)
	return out, nil
}

func openToAll(socket string) (net.Listener, error) {
	l, err := sys.GetLocalListener(socket, os.Getuid(), os.Getuid())
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

type collector struct {
	tracev1.UnimplementedTraceServiceServer
	exporter sdktrace.SpanExporter
}

func (c *collector) Export(ctx context.Context, req *tracev1.ExportTraceServiceRequest) (*tracev1.ExportTraceServiceResponse, error) {
	if err := c.exporter.ExportSpans(ctx, transform.Spans(req.GetResourceSpans())); err != nil {
		return nil, err
	}
	return &tracev1.ExportTraceServiceResponse{}, nil
}
