package integration_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// jsonLogs lets nodes write all they have as JSON.
var jsonLogs = []string{"LOG_FORMAT=json", "LOG_LEVEL=debug"}

// logLine is a line of a node's log.
type logLine map[string]any

func (l logLine) text(key string) string { s, _ := l[key].(string); return s }

// readLog parses a log. Every line must be JSON and have the fields that all lines have.
func readLog(t *testing.T, nodeID, log string) []logLine {
	t.Helper()
	var lines []logLine
	for text := range strings.Lines(log) {
		var l logLine
		require.NoError(t, json.Unmarshal([]byte(text), &l), "%s: %s", nodeID, text)
		at, err := time.Parse(time.RFC3339Nano, l.text("time"))
		require.NoError(t, err, text)
		require.WithinDuration(t, time.Now(), at, time.Hour)
		require.Contains(t, []string{"DEBUG", "INFO", "WARN", "ERROR"}, l.text("level"), text)
		for _, key := range []string{"msg", "logger", "node_id"} {
			require.NotEmpty(t, l.text(key), "%s: %s", key, text)
		}
		require.Equal(t, nodeID, l.text("node_id"), text)
		require.Equal(t, 1, strings.Count(text, `"logger":`), text)
		lines = append(lines, l)
	}
	return lines
}

// requireJSONLogs stops all nodes, and wants every line that they wrote, from their first to their last, to be JSON with the
// fields of the contract, none to have a secret, and all that log to have done so.
func requireJSONLogs(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, n := range c.Running() {
		n.Stop()
	}
	loggers := make(map[string]int)
	for _, n := range c.Nodes {
		log := n.Logs()
		for _, l := range readLog(t, n.ID, log) {
			loggers[l.text("logger")]++
		}
		require.NotContains(t, log, harness.Secret)
	}
	t.Logf("lines by logger: %v", loggers)
	for _, name := range []string{"node", "raft", "gossip", "grpc", "shard", "rpc", "node_rpc", "broker"} {
		require.NotZero(t, loggers[name], name)
	}
}

// linesOf returns a node's lines of a trace.
func linesOf(t *testing.T, n *harness.Node, traceID string) []logLine {
	t.Helper()
	return slices.DeleteFunc(readLog(t, n.ID, n.Logs()), func(l logLine) bool { return l.text("trace_id") != traceID })
}

// tracers sends the spans of clients in this process to a receiver.
func tracers(t *testing.T, o *harness.OTLP) *sdktrace.TracerProvider {
	t.Helper()
	exporter, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithEndpoint(o.Addr()), otlptracegrpc.WithInsecure())
	require.NoError(t, err)
	p := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	t.Cleanup(func() { require.NoError(t, p.Shutdown(context.Background())) })
	return p
}

// waitSpan waits until a trace has a span that fits, and returns it.
func waitSpan(t *testing.T, o *harness.OTLP, traceID, what string, fits func(harness.Span) bool) harness.Span {
	t.Helper()
	var found harness.Span
	harness.Eventually(t, syncWithin, "a span: "+what, func(context.Context) error {
		var names []string
		for _, s := range o.Spans(traceID) {
			if fits(s) {
				found = s
				return nil
			}
			names = append(names, s.Node+": "+s.GetName())
		}
		return fmt.Errorf("trace %s has only %q", traceID, names)
	})
	return found
}

// named accepts spans by node and name.
func named(node, name string) func(harness.Span) bool {
	return func(s harness.Span) bool { return s.Node == node && s.GetName() == name }
}

// waitChain waits for spans each of which is below the one before, and returns the last.
func waitChain(t *testing.T, o *harness.OTLP, above harness.Span, chain ...string) harness.Span {
	t.Helper()
	for _, step := range chain {
		node, name, _ := strings.Cut(step, ": ")
		parent := above
		above = waitSpan(t, o, above.Trace(), step+" below "+parent.GetName(), func(s harness.Span) bool {
			return named(node, name)(s) && s.Below(parent)
		})
	}
	return above
}

// traced is a cluster whose nodes trace everything and write JSON.
func traced(t *testing.T, flags map[string]string) (*harness.Cluster, *harness.OTLP) {
	t.Helper()
	o := harness.StartOTLP(t)
	c := harness.StartCluster(t, harness.Options{Flags: flags, Env: slices.Concat(o.Env(), jsonLogs)})
	return c, o
}

const (
	produceCall = "streamhouse.v1.StreamHouseService/ProduceBatch"
	appendCall  = "streamhouse.node.v1.NodeService/Append"
	consumeCall = "streamhouse.v1.StreamHouseService/ConsumeStream"
)

// One trace goes from a client through the node that forwards and the leader to Raft's commit, in the spans that a real
// receiver gets and in the logs of both nodes.
func TestTraceOfAForwardedRequest(t *testing.T) {
	t.Parallel()
	c, o := traced(t, steady(map[string]string{"shards": "1"}))
	provider := tracers(t, o)
	topic := c.CreateTopic("orders", 1, nil)
	shard := topic.GetPartitions()[0].GetShard()
	leader := c.ShardLeader(shard)
	other := c.Others(leader)[0]
	conn, err := grpc.NewClient("passthrough:///"+other.GRPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(
			otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(propagation.TraceContext{}))))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	api := streamhousev1.NewStreamHouseServiceClient(conn)
	batch := &streamhousev1.ProduceBatchRequest{Topic: "orders", Partition: new(int32), Records: []*streamhousev1.Record{{Value: []byte("x")}}}

	t.Run("a call", func(t *testing.T) {
		ctx, span := provider.Tracer("test").Start(call(t), "client")
		_, err := api.ProduceBatch(ctx, batch)
		span.End()
		require.NoError(t, err)
		traceID := span.SpanContext().TraceID().String()
		root := waitSpan(t, o, traceID, "client", named("", "client"))
		last := waitChain(t, o, root, ": "+produceCall, other.ID+": "+produceCall, other.ID+": forward", other.ID+": "+appendCall,
			leader.ID+": "+appendCall, leader.ID+": append", leader.ID+": raft commit")
		t.Logf("trace %s: %d spans, the last is %s on %s", traceID, len(o.Spans(traceID)), last.GetName(), last.Node)
		requireBothLogs(t, traceID, other, leader, "call")
	})

	t.Run("a request of a stream", func(t *testing.T) {
		stream, err := api.ProduceStream(call(t))
		require.NoError(t, err)
		for range 3 { // each with a trace of its own
			ctx, span := provider.Tracer("test").Start(t.Context(), "client")
			carrier := propagation.MapCarrier{}
			propagation.TraceContext{}.Inject(ctx, carrier)
			require.NoError(t, stream.Send(&streamhousev1.ProduceStreamRequest{
				Traceparent: carrier["traceparent"], Write: &streamhousev1.ProduceStreamRequest_Batch{Batch: batch},
			}))
			res, err := stream.Recv()
			span.End()
			require.NoError(t, err)
			require.Nil(t, res.GetError())
			traceID := span.SpanContext().TraceID().String()
			root := waitSpan(t, o, traceID, "client", named("", "client"))
			waitChain(t, o, root, other.ID+": ProduceStream request", other.ID+": forward", other.ID+": "+appendCall,
				leader.ID+": "+appendCall, leader.ID+": append", leader.ID+": raft commit")
			requireBothLogs(t, traceID, other, leader, "request of a stream")
		}
		require.NoError(t, stream.CloseSend())
	})

	t.Run("the client's batches", func(t *testing.T) {
		cl := c.Client(client.Config{TracerProvider: provider})
		p, err := client.NewProducer(cl, client.ProducerConfig{})
		require.NoError(t, err)
		ctx, span := provider.Tracer("test").Start(call(t), "client")
		require.NoError(t, p.ProduceSync(ctx, &client.Record{Topic: "orders", Value: []byte("y")}))
		span.End()
		require.NoError(t, p.Close(call(t)))
		root := waitSpan(t, o, span.SpanContext().TraceID().String(), "client", named("", "client"))
		waitChain(t, o, root, ": send orders", leader.ID+": ProduceStream request", leader.ID+": append", leader.ID+": raft commit")
	})

	t.Run("a stream that is read", func(t *testing.T) {
		ctx, span := provider.Tracer("test").Start(call(t), "client")
		stream, err := api.ConsumeStream(ctx, &streamhousev1.ConsumeStreamRequest{Topic: "orders", MaxBytes: 1})
		require.NoError(t, err)
		answers := 0
		for ; err == nil; answers++ {
			_, err = stream.Recv()
		}
		require.ErrorIs(t, err, io.EOF)
		span.End()
		root := waitSpan(t, o, span.SpanContext().TraceID().String(), "client", named("", "client"))
		served := waitChain(t, o, root, ": "+consumeCall, other.ID+": ConsumeStream")
		read := waitChain(t, o, served, other.ID+": read")
		require.Equal(t, "orders", read.Attribute("messaging.destination.name"))
		require.Greater(t, answers, 2)
	})

	t.Run("an upload that fails, and the next", func(t *testing.T) { failedUpload(t, o, provider, api, c.Proxy) })
	t.Run("an upload, S3, reads and exemplars", func(t *testing.T) { uploadsAndReads(t, o, provider, api, leader) })
}

// requireBothLogs wants a trace in the logs of both nodes.
func requireBothLogs(t *testing.T, traceID string, other, leader *harness.Node, msg string) {
	t.Helper()
	for n, want := range map[*harness.Node]string{other: msg, leader: "call"} {
		harness.Eventually(t, syncWithin, "a line of trace "+traceID+" on "+n.ID, func(context.Context) error {
			lines := linesOf(t, n, traceID)
			for _, l := range lines {
				if l.text("msg") == want && l.text("topic") == "orders" && l.text("span_id") != "" {
					return nil
				}
			}
			return fmt.Errorf("there are %v", lines)
		})
	}
}

// failedUpload wants the upload that carries a request's records after a failed one to have a link to it, as the failed one
// has.
func failedUpload(t *testing.T, o *harness.OTLP, provider *sdktrace.TracerProvider, api streamhousev1.StreamHouseServiceClient, s3 *harness.Proxy) {
	t.Helper()
	durable := &streamhousev1.ProduceBatchRequest{
		Topic: "orders", Partition: new(int32), Records: []*streamhousev1.Record{{Value: []byte("x")}}, Acks: streamhousev1.Acks_ACKS_DURABLE,
	}
	_, err := api.ProduceBatch(call(t), durable) // after it nothing older waits for an upload, which would take the fault
	require.NoError(t, err)
	defer s3.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: ".seg", Status: http.StatusForbidden, Times: 1})()
	ctx, span := provider.Tracer("test").Start(call(t), "client")
	_, err = api.ProduceBatch(ctx, durable)
	require.NoError(t, err)
	span.End()
	for outcome, code := range map[string]tracepb.Status_StatusCode{"failed": tracepb.Status_STATUS_CODE_ERROR, "succeeded": tracepb.Status_STATUS_CODE_UNSET} {
		waitSpan(t, o, "", "an upload that "+outcome+", with a link", func(s harness.Span) bool {
			return s.GetName() == "upload" && s.GetStatus().GetCode() == code && slices.ContainsFunc(s.GetLinks(), func(l *tracepb.Span_Link) bool {
				return hex.EncodeToString(l.GetTraceId()) == span.SpanContext().TraceID().String()
			})
		})
	}
}

func uploadsAndReads(t *testing.T, o *harness.OTLP, provider *sdktrace.TracerProvider, api streamhousev1.StreamHouseServiceClient, leader *harness.Node) {
	t.Helper()
	ctx, span := provider.Tracer("test").Start(call(t), "client")
	res, err := api.ProduceBatch(ctx, &streamhousev1.ProduceBatchRequest{
		Topic: "orders", Partition: new(int32), Records: []*streamhousev1.Record{{Value: []byte("x")}}, Acks: streamhousev1.Acks_ACKS_DURABLE,
	})
	require.NoError(t, err)
	_, err = api.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "orders", Offset: res.GetBatches()[0].GetBaseOffset()})
	require.NoError(t, err)
	span.End()
	traceID := span.SpanContext().TraceID().String()
	upload := waitSpan(t, o, "", "an upload with a link to the request that waits for it", func(s harness.Span) bool {
		return s.Node == leader.ID && s.GetName() == "upload" && len(s.GetLinks()) > 0 && hex.EncodeToString(s.GetLinks()[0].GetTraceId()) == traceID
	})
	put := waitChain(t, o, upload, leader.ID+": S3 PUT")
	require.Equal(t, "PUT", put.Attribute("streamhouse.s3.operation"))
	require.Equal(t, "ok", put.Attribute("streamhouse.s3.outcome"))
	waitSpan(t, o, traceID, "wait for upload", named(leader.ID, "wait for upload"))
	waitSpan(t, o, traceID, "read", func(s harness.Span) bool {
		return s.GetName() == "read" && s.Attribute("messaging.destination.name") == "orders"
	})

	known := make(map[string]bool)
	for _, s := range o.Spans("") {
		known[s.Trace()] = true
	}
	for _, metric := range []string{"streamhouse_producer_latency_seconds", "streamhouse_s3_latency_seconds", "streamhouse_raft_commit_seconds"} {
		ids := exemplars(t, leader, metric)
		require.NotEmpty(t, ids, metric)
		for _, id := range ids {
			require.True(t, known[id], "the exemplar %s of %s is a trace that was received", id, metric)
		}
		t.Logf("%s has exemplars of %d traces", metric, len(ids))
	}
}

// exemplars returns the trace ids of a histogram's exemplars.
func exemplars(t *testing.T, n *harness.Node, metric string) []string {
	t.Helper()
	req, err := http.NewRequestWithContext(call(t), http.MethodGet, n.URL("/metrics"), nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var ids []string
	for line := range strings.Lines(string(body)) {
		if _, rest, ok := strings.Cut(line, ` # {trace_id="`); ok && strings.HasPrefix(line, metric+"_bucket{") {
			ids = append(ids, rest[:32])
		}
	}
	return ids
}

// Without an endpoint a caller's trace id is still in the logs of all nodes that serve it.
func TestTraceContextWithoutAnEndpoint(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil), Env: jsonLogs})
	topic := c.CreateTopic("orders", 1, nil)
	leader := c.ShardLeader(topic.GetPartitions()[0].GetShard())
	other := c.Others(leader)[0]
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled})
	conn, err := grpc.NewClient("passthrough:///"+other.GRPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithPropagators(propagation.TraceContext{}))))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	_, err = streamhousev1.NewStreamHouseServiceClient(conn).ProduceBatch(trace.ContextWithSpanContext(call(t), sc), &streamhousev1.ProduceBatchRequest{
		Topic: "orders", Partition: new(int32), Records: []*streamhousev1.Record{{Value: []byte("x")}},
	})
	require.NoError(t, err)
	requireBothLogs(t, sc.TraceID().String(), other, leader, "call")
}

// Every line that the nodes write, from their first to their last, through a workload with failures of all kinds, is JSON
// with the fields of the contract, and none has a secret.
func TestJSONLogs(t *testing.T) {
	t.Parallel()
	c, _ := traced(t, quick(nil))
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3})
	ledger.WaitAcked(t, 200, syncWithin)
	_, err := c.Nodes[0].Consume(call(t), &streamhousev1.ConsumeRequest{Topic: "nope"})
	require.Error(t, err)
	stream, err := client.NewProducer(c.Client(client.Config{}), client.ProducerConfig{})
	require.NoError(t, err)
	require.NoError(t, stream.ProduceSync(call(t), &client.Record{Topic: "orders", Value: []byte("x")}))
	require.NoError(t, stream.Close(call(t)))
	up := c.Proxy.Down()
	_, err = c.Nodes[0].CommitOffset(call(t), &streamhousev1.CommitOffsetRequest{Topic: "orders", Group: "g", Offsets: []*streamhousev1.CommittedOffset{{Offset: 1}}})
	require.NoError(t, err)
	harness.Eventually(t, syncWithin, "S3 fails", func(ctx context.Context) error {
		n, err := c.Sum(ctx, "streamhouse_s3_errors_total", harness.Labels{"error_type": "retry"})
		if err == nil && n < 3 {
			err = fmt.Errorf("%v errors", n)
		}
		return err
	})
	up()
	c.Nodes[1].Kill()
	ledger.WaitAcked(t, 200, syncWithin)
	c.Nodes[1].Start()
	c.WaitInSync(syncWithin)
	c.Nodes[2].Stop()
	c.Nodes[2].Start()
	c.WaitInSync(syncWithin)
	ledger.WaitAcked(t, 200, syncWithin)
	p.Stop(t)
	requireJSONLogs(t, c)
}

// What ends a server before it has a log is JSON too, and shows no password.
func TestJSONLogsOfAServerThatDoesNotStart(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, harness.Options{Nodes: 1, Flags: quick(nil), Env: []string{"LOG_FORMAT=json", "AWS_SECRET_ACCESS_KEY=not-the-secret-key"}})
	n := c.Nodes[0]
	for _, tt := range []struct{ flag, value, want string }{
		{"object-store", "s3://key:hunter22@bucket/x?region=r", "no password"},
		{"object-store", "s3://bucket/x?region=r&endpoint=http%3A%2F%2Fkey%3Ahunter22%40127.0.0.1:1", "no password"},
		{"shards", "many", "shards"},
		{"no-such-flag", "1", "no-such-flag"},
		{"object-store", c.ObjectStore(), "credentials"}, // with a wrong key
	} {
		n.SetFlag(tt.flag, tt.value)
		n.Start()
		<-n.Process().Done()
		require.NotZero(t, n.Process().ExitCode(), tt.value)
		log := n.Process().Log()
		for line := range strings.Lines(log) {
			var l logLine
			require.NoError(t, json.Unmarshal([]byte(line), &l), line)
			for _, key := range []string{"time", "level", "msg", "logger", "node_id"} {
				require.Contains(t, l, key, line)
			}
		}
		require.Contains(t, log, tt.want)
		for _, secret := range []string{harness.Secret, "hunter22", "not-the-secret-key"} {
			require.NotContains(t, log, secret, tt.value)
		}
		n.SetFlag(tt.flag, "")
		n.SetFlag("object-store", c.ObjectStore())
	}
}

// silent listens and never answers.
func silent(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", harness.FreeAddr(t))
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		wg.Wait()
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	return l.Addr().String()
}

// An endpoint that is dead, or takes connections and never answers, is not noticed by who produces, nor by who stops the
// node.
func TestDeadAndHangingEndpoints(t *testing.T) {
	t.Parallel()
	const records = 300
	measure := func(env ...string) (slowest, stop time.Duration) {
		c := harness.StartCluster(t, harness.Options{Nodes: 1, Flags: quick(nil), Env: append(env, "OTEL_BSP_MAX_QUEUE_SIZE=64", "OTEL_BSP_SCHEDULE_DELAY=100")})
		c.CreateTopic("orders", 1, nil)
		for range records {
			began := time.Now()
			_, err := produce(call(t), c.Nodes[0], "orders", 0, "x", streamhousev1.Acks_ACKS_QUORUM)
			require.NoError(t, err)
			slowest = max(slowest, time.Since(began))
		}
		began := time.Now()
		c.Nodes[0].Stop()
		return slowest, time.Since(began)
	}
	_, without := measure()
	for name, addr := range map[string]string{"dead": harness.FreeAddr(t), "hanging": silent(t)} {
		for _, protocol := range []string{"grpc", "http/protobuf"} {
			slowest, stop := measure("OTEL_EXPORTER_OTLP_ENDPOINT=http://"+addr, "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol)
			t.Logf("%s, %s: slowest of %d produces %v, stopped in %v; without an endpoint in %v", name, protocol, records, slowest, stop, without)
			require.Less(t, slowest, 3*time.Second)
			require.Less(t, stop, without+5*time.Second, "%s: the last spans are sent for 2 s at most", name)
		}
	}
}
