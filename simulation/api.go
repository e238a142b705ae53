package simulation

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/cluster"
)

const (
	// callTimeout bounds a call to one node.
	callTimeout = 4 * time.Second
	retryEvery  = 200 * time.Millisecond
)

// api calls one node, without tries and without knowing another.
type api struct {
	streamhousev1.StreamHouseServiceClient

	node    string
	cluster streamhousev1.ClusterServiceClient
	conn    *grpc.ClientConn
}

func newAPI(c *cluster.Cluster, n *cluster.Node, host int) (*api, error) {
	conn, err := grpc.NewClient("passthrough:///"+n.Addr(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(c.Net.Host(cluster.ClientIP(host)).Dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, err
	}
	return &api{
		StreamHouseServiceClient: streamhousev1.NewStreamHouseServiceClient(conn), node: n.ID,
		cluster: streamhousev1.NewClusterServiceClient(conn), conn: conn,
	}, nil
}

// reason is the reason in an error's ErrorInfo.
func reason(err error) string {
	info, _ := streamhousev1.FindErrorInfo(status.Convert(err))
	return info.GetReason()
}

// until calls f until it succeeds or ctx ends; it returns f's last error.
func until(ctx context.Context, f func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		err := f(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if pause.For(ctx, retryEvery) != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}
