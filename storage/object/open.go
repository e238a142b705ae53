package object

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// errUserInfo refuses a URL with a name or a password: a URL is kept in the cluster's metadata and shown to everybody.
var errUserInfo = errors.New("there must be no user and no password in it: credentials come from the environment, as the AWS SDK takes them")

// s3URL is a parsed s3://BUCKET/PREFIX?region=…&endpoint=…&path_style=true.
type s3URL struct {
	text, bucket, prefix, region, endpoint string
	pathStyle                              bool
}

// Redact returns the URL of a store without names, passwords and the values of parameters that there are not, to be shown.
func Redact(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "(not a URL)"
	}
	hidden := false
	if u.User != nil {
		u.User, hidden = url.User("REDACTED"), true
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		u.RawQuery, q, hidden = "REDACTED", nil, true
	}
	for key, values := range q {
		known := key == "region" || key == "endpoint" || key == "path_style"
		if known && (key != "endpoint" || !slices.ContainsFunc(values, hasUser)) {
			continue
		}
		q.Set(key, "REDACTED")
		hidden = true
	}
	if hidden && len(q) > 0 {
		u.RawQuery = q.Encode()
	}
	if !hidden {
		return rawURL
	}
	return u.String()
}

func hasUser(endpoint string) bool { return strings.Contains(endpoint, "@") }

// Open returns the bucket that a URL names: s3://BUCKET/PREFIX?region=…&endpoint=…&path_style=true or file:///DIR. It
// does not ask the store anything; see Probe.
func Open(ctx context.Context, rawURL string, opts ...Option) (Bucket, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		err = errors.Unwrap(err) // without the URL: there may be a password in it
		return nil, fmt.Errorf("%w: %w", ErrInvalidURL, err)
	}
	if u.User != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidURL, errUserInfo)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" {
			return nil, fmt.Errorf("%w %q: want file:///DIR with an absolute directory", ErrInvalidURL, Redact(rawURL))
		}
		return NewDirectory(filepath.Clean(u.Path))
	case "s3":
		s, err := parseS3(rawURL, u)
		if err != nil {
			return nil, err
		}
		b, err := openS3(ctx, s, newOptions(opts))
		if err != nil {
			return nil, err
		}
		return WithPrefix(b, s.prefix), nil
	default:
		return nil, fmt.Errorf("%w %q: want s3://BUCKET/PREFIX?region=…&endpoint=…&path_style=true or file:///DIR", ErrInvalidURL, Redact(rawURL))
	}
}

func parseS3(rawURL string, u *url.URL) (s3URL, error) {
	rawURL = Redact(rawURL)
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return s3URL{}, fmt.Errorf("%w %q: what is behind the ? can't be read", ErrInvalidURL, rawURL)
	}
	if slices.ContainsFunc(q["endpoint"], hasUser) {
		return s3URL{}, fmt.Errorf("%w: endpoint: %w", ErrInvalidURL, errUserInfo)
	}
	s := s3URL{text: rawURL, bucket: u.Host, prefix: strings.Trim(u.Path, "/")}
	if s.bucket == "" {
		return s, fmt.Errorf("%w %q: no bucket", ErrInvalidURL, rawURL)
	}
	if s.prefix != "" {
		if err := checkName(s.prefix); err != nil {
			return s, fmt.Errorf("%w %q: prefix: want parts of [a-zA-Z0-9._-]", ErrInvalidURL, rawURL)
		}
	}
	for key, values := range q {
		v := values[len(values)-1]
		var err error
		switch key {
		case "region":
			s.region = v
		case "endpoint":
			var e *url.URL
			if e, err = url.Parse(v); err == nil && (e.Scheme != "http" && e.Scheme != "https" || e.Host == "") {
				err = errors.New("want http://HOST:PORT or https://HOST")
			}
			s.endpoint = v
		case "path_style":
			s.pathStyle, err = strconv.ParseBool(v)
		default:
			// Without its value: it may be a secret.
			return s, fmt.Errorf("%w %q: %s: unknown parameter: there are region, endpoint and path_style", ErrInvalidURL, rawURL, key)
		}
		if err != nil {
			return s, fmt.Errorf("%w %q: %s=%s: %w", ErrInvalidURL, rawURL, key, v, err)
		}
	}
	return s, nil
}

// probePrefix begins the names of Probe's objects.
const probePrefix = "probe/"

// Probe checks that a store is reachable, can be written and read in ranges, and refuses to replace an object. It
// leaves nothing behind. ErrUnavailable and ErrDenied say what to mend.
func Probe(ctx context.Context, b Bucket) error {
	name := probePrefix + strings.ToLower(rand.Text())
	body := []byte("streamhouse probe")
	err := b.Put(ctx, name, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return fmt.Errorf("object store can't be written: %w", err)
	}
	err = probeObject(ctx, b, name, body)
	if delErr := b.Delete(ctx, name); delErr != nil {
		err = errors.Join(err, fmt.Errorf("object store does not delete: %w", delErr))
	}
	return err
}

func probeObject(ctx context.Context, b Bucket, name string, body []byte) error {
	if err := b.Put(ctx, name, bytes.NewReader(body), int64(len(body))); !errors.Is(err, ErrExists) {
		return fmt.Errorf("object store replaces objects: it ignores If-None-Match, which StreamHouse needs: %w", errors.Join(ErrDenied, err))
	}
	r, err := b.Get(ctx, name, 5, 4)
	if err != nil {
		return fmt.Errorf("object store can't be read: %w", err)
	}
	got, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("object store can't be read: %w: %w", ErrUnavailable, err)
	}
	if !bytes.Equal(got, body[5:9]) {
		return fmt.Errorf("object store does not read ranges: asked for 4 bytes, got %d: %w", len(got), ErrDenied)
	}
	return nil
}
