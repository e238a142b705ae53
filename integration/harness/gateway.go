package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	accessKey = "streamhouse"
	secretKey = "streamhouse-secret" //nolint:gosec // of a server that lives as long as the test
	region    = "us-east-1"
)

// Gateway is an S3 server with its data in a directory of the test.
type Gateway struct {
	addr   string
	proc   *Process
	client *s3.Client
}

// StartGateway starts an S3 server on a free port of loopback and waits until it answers.
func StartGateway(tb testing.TB) *Gateway {
	tb.Helper()
	path, err := versitygwPath()
	if err != nil {
		tb.Fatal(err)
	}
	addr := FreeAddr(tb)
	g := &Gateway{addr: addr, client: s3Client("http://" + addr)}
	g.proc = Start(tb, Command{
		Name:    "versitygw",
		Path:    path,
		Args:    []string{"--port", addr, "--health", "/health", "--quiet", "posix", tb.TempDir()},
		Env:     []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey},
		LogPath: filepath.Join(logDir(tb), "versitygw.log"),
	})
	Eventually(tb, 20*time.Second, "the S3 server answers", func(ctx context.Context) error {
		return CheckURL(ctx, "http://"+addr+"/health")
	})
	return g
}

func s3Client(endpoint string) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(endpoint),
		Region:       region,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})
}

// Secret is what no log may have.
const Secret = secretKey

// S3Env is the environment that holds the credentials of the S3 server.
func S3Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey,
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
	}
}

// Addr is the server's host and port.
func (g *Gateway) Addr() string { return g.addr }

// CreateBucket creates a bucket.
func (g *Gateway) CreateBucket(tb testing.TB, name string) {
	tb.Helper()
	if _, err := g.client.CreateBucket(tb.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		tb.Fatalf("create bucket %s: %v", name, err)
	}
}

// StoreURL is the --object-store for a bucket behind the host and port given.
func StoreURL(addr, bucket, prefix string) string {
	q := url.Values{"region": {region}, "endpoint": {"http://" + addr}, "path_style": {"true"}}
	return fmt.Sprintf("s3://%s/%s?%s", bucket, prefix, q.Encode())
}

// Delete removes an object behind the cluster's back.
func (g *Gateway) Delete(ctx context.Context, bucket, key string) error {
	_, err := g.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	return err
}

// FlipBit changes one bit in the middle of an object behind the cluster's back.
func (g *Gateway) FlipBit(ctx context.Context, bucket, key string) error {
	out, err := g.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return fmt.Errorf("get %s/%s: %w", bucket, key, err)
	}
	data, err := io.ReadAll(out.Body)
	if err := errors.Join(err, out.Body.Close()); err != nil {
		return fmt.Errorf("read %s/%s: %w", bucket, key, err)
	}
	data[len(data)/2] ^= 4
	_, err = g.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: bytes.NewReader(data)})
	return err
}

// Objects lists the keys of a bucket under a prefix with their sizes.
func (g *Gateway) Objects(ctx context.Context, bucket, prefix string) (map[string]int64, error) {
	objects := make(map[string]int64)
	pages := s3.NewListObjectsV2Paginator(g.client, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list %s/%s: %w", bucket, prefix, err)
		}
		for i := range page.Contents {
			objects[aws.ToString(page.Contents[i].Key)] = aws.ToInt64(page.Contents[i].Size)
		}
	}
	return objects, nil
}

// get returns status and body of a URL.
func get(ctx context.Context, target string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, errors.Join(err, resp.Body.Close())
}

// CheckURL returns nil when a GET of the URL is answered with 200.
func CheckURL(ctx context.Context, target string) error {
	status, body, err := get(ctx, target)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s: %d %s", target, status, body)
	}
	return nil
}
