package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// s3Bucket is a Bucket of S3. The SDK's own retries are off: WithRetry does them, where they are counted.
type s3Bucket struct {
	client *s3.Client
	bucket string
}

var _ Bucket = (*s3Bucket)(nil)

const (
	s3ConnectTimeout = 5 * time.Second
	s3IdleConns      = 64
)

func s3HTTPClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = s3IdleConns
		t.ResponseHeaderTimeout = 0 // an attempt has a deadline of its own
	}).WithDialerOptions(func(d *net.Dialer) { d.Timeout = s3ConnectTimeout })
}

// openS3 makes a client; it does not connect. Credentials come from the SDK's usual chain.
func openS3(ctx context.Context, u s3URL, o options) (Bucket, error) {
	opts := []func(*config.LoadOptions) error{config.WithHTTPClient(s3HTTPClient()), config.WithLogger(sdkLogger(o.log)), config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} })}
	if u.region != "" {
		opts = append(opts, config.WithRegion(u.region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrInvalidURL, u.text, err)
	}
	if cfg.Region == "" {
		return nil, fmt.Errorf("%w %s: no region: add ?region=… or set AWS_REGION", ErrInvalidURL, u.text)
	}
	return &s3Bucket{bucket: u.bucket, client: s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = u.pathStyle
		o.DisableLogOutputChecksumValidationSkipped = true // ranges never carry one; segments have their own sums
		if u.endpoint != "" {
			o.BaseEndpoint = aws.String(u.endpoint)
		}
	})}, nil
}

// Put implements Bucket, with S3's conditional create and the SDK's default checksum.
func (b *s3Bucket) Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error {
	if err := checkName(name); err != nil {
		return err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.bucket, Key: &name, Body: body, ContentLength: &sizeBytes, IfNoneMatch: aws.String("*"),
	})
	return b.fail(name, err)
}

// Get implements Bucket.
func (b *s3Bucket) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if length == 0 {
		return io.NopCloser(http.NoBody), nil
	}
	in := &s3.GetObjectInput{Bucket: &b.bucket, Key: &name}
	switch {
	case length > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := b.client.GetObject(ctx, in)
	if statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
		return io.NopCloser(http.NoBody), nil
	}
	if err != nil {
		return nil, b.fail(name, err)
	}
	return out.Body, nil
}

// Head implements Bucket.
func (b *s3Bucket) Head(ctx context.Context, name string) (Attributes, error) {
	if err := checkName(name); err != nil {
		return Attributes{}, err
	}
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.bucket, Key: &name})
	if err != nil {
		return Attributes{}, b.fail(name, err)
	}
	return Attributes{Name: name, SizeBytes: aws.ToInt64(out.ContentLength), ModTime: aws.ToTime(out.LastModified)}, nil
}

// List implements Bucket.
func (b *s3Bucket) List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error) {
	in := &s3.ListObjectsV2Input{Bucket: &b.bucket, Prefix: &prefix}
	if after != "" {
		in.StartAfter = &after
	}
	out, err := b.client.ListObjectsV2(ctx, in)
	if err != nil {
		return nil, false, b.fail(prefix, err)
	}
	for _, o := range out.Contents {
		page = append(page, Attributes{Name: aws.ToString(o.Key), SizeBytes: aws.ToInt64(o.Size), ModTime: aws.ToTime(o.LastModified)})
	}
	return page, aws.ToBool(out.IsTruncated), nil
}

// Delete implements Bucket.
func (b *s3Bucket) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.bucket, Key: &name})
	if err = b.fail(name, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func statusOf(err error) int {
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		return re.HTTPStatusCode()
	}
	return 0
}

// fail gives an SDK's error the class that a Bucket's caller knows, and one line.
func (b *s3Bucket) fail(name string, err error) error {
	if err == nil {
		return nil
	}
	var api smithy.APIError
	code := "no answer"
	if errors.As(err, &api) {
		code = api.ErrorCode() + ": " + api.ErrorMessage()
	}
	var class error
	switch status := statusOf(err); {
	case api != nil && api.ErrorCode() == "NoSuchBucket":
		return fmt.Errorf("bucket %s: %w: it does not exist: create it, or name another in the URL", b.bucket, ErrDenied)
	case status == http.StatusPreconditionFailed:
		class = ErrExists
	case status == http.StatusNotFound:
		class = ErrNotFound
	case api != nil && api.ErrorCode() == "RequestTimeout": // with status 400: the body came too slowly
		class = ErrUnavailable
	case status == http.StatusForbidden, status == http.StatusUnauthorized, status == http.StatusMovedPermanently, status == http.StatusBadRequest,
		status == http.StatusMethodNotAllowed, status == http.StatusNotImplemented:
		return fmt.Errorf("object %s in bucket %s: %w: %s: check credentials, permissions and region", name, b.bucket, ErrDenied, code)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("object %s in bucket %s: %w", name, b.bucket, err)
	default: // 409 of two conditional creates at once, 5xx, slow down, no connection
		class = ErrUnavailable
	}
	return fmt.Errorf("object %s in bucket %s: %w: %w", name, b.bucket, class, err)
}
