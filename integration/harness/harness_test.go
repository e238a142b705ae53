package harness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// client is an S3 client that tries once.
func client(addr string) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + addr),
		Region:       "us-east-1",
		UsePathStyle: true,
		Retryer:      aws.NopRetryer{},
		Credentials:  credentials.NewStaticCredentialsProvider("streamhouse", "streamhouse-secret", ""),
	})
}

func TestProxy(t *testing.T) {
	t.Parallel()
	g := harness.StartGateway(t)
	g.CreateBucket(t, "bucket")
	p := harness.StartProxy(t, g.Addr())
	c := client(p.Addr())
	body := bytes.Repeat([]byte("0123456789"), 1000)
	putUntil := func(ctx context.Context, key string) error {
		_, err := c.PutObject(ctx, &s3.PutObjectInput{
			Bucket: aws.String("bucket"), Key: &key, Body: bytes.NewReader(body), IfNoneMatch: aws.String("*"),
		})
		return err
	}
	put := func(key string) error { return putUntil(t.Context(), key) }

	require.NoError(t, put("one"))
	require.Error(t, put("one"), "an object is created once")
	out, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("bucket"), Key: aws.String("one"), Range: aws.String("bytes=10-29")})
	require.NoError(t, err)
	got, err := io.ReadAll(out.Body)
	require.NoError(t, err)
	require.NoError(t, out.Body.Close())
	require.Equal(t, body[10:30], got)

	p.Inject(harness.Fault{Methods: []string{http.MethodPut}, Status: http.StatusServiceUnavailable, Times: 1})
	require.ErrorContains(t, put("two"), "SlowDown")
	require.NoError(t, put("two"), "the fault was for one request")

	up := p.Down()
	require.Error(t, put("three"))
	up()
	require.NoError(t, put("three"))

	p.Inject(harness.Fault{Key: "four", LoseAnswer: true, Times: 1})
	require.Error(t, put("four"))
	objects, err := g.Objects(t.Context(), "bucket", "four")
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"four": int64(len(body))}, objects, "the request was done")

	hung := make(chan error, 1)
	release := p.Inject(harness.Fault{Key: "five", Hang: true})
	go func() { hung <- put("five") }()
	harness.Always(t, 200*time.Millisecond, "the request hangs", func(context.Context) error {
		if len(hung) > 0 {
			return errors.New("it was answered")
		}
		return nil
	})
	release()
	require.Error(t, <-hung)

	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	arrive := p.Inject(harness.Fault{Key: "six", Late: true})
	go func() { hung <- putUntil(ctx, "six") }()
	six := func(want int) {
		harness.Eventually(t, 10*time.Second, "it is late", func(ctx context.Context) error {
			objects, err := g.Objects(ctx, "bucket", "six")
			if err == nil && (len(objects) != want || len(p.Late()) != 1) {
				err = fmt.Errorf("%d objects, late are %v", len(objects), p.Late())
			}
			return err
		})
	}
	six(0)
	giveUp()
	require.Error(t, <-hung)
	six(0)
	arrive()
	six(1)

	require.Equal(t, 9, p.Count(http.MethodPut, "/bucket/"))
	require.Equal(t, 1, p.Count(http.MethodGet, "/bucket/one"))
}
