package object

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/aws/smithy-go/logging"
	"github.com/stretchr/testify/require"
)

// A URL is kept in the metadata and shown to everybody.
func TestPasswordsInURLsAreRefused(t *testing.T) {
	for _, url := range []string{
		"s3://key:hunter22@bucket/p?region=r",
		"file://key:hunter22@/dir",
		"s3://bucket/p?region=r&endpoint=http://key:hunter22@host",
		"s3://bucket/p?region=r&bad=1&endpoint=http%3A%2F%2Fkey%3Ahunter22%40host",
		"s3://key:hunter22@bucket/\x7f",
		"s3://bucket/p?region=r&secret_access_key=hunter22",
		"s3://bucket/p?region=r&endpoint=http://host&endpoint=http://key:hunter22@host",
		"s3://bucket/p?region=r&secret=hunter22;x",
		"file:///dir?token=hunter22",
		"gs://bucket?token=hunter22",
		"nope://key:hunter22@bucket",
	} {
		_, err := Open(t.Context(), url)
		require.ErrorIs(t, err, ErrInvalidURL, url)
		require.NotContains(t, err.Error(), "hunter22")
		require.NotContains(t, Redact(url), "hunter22")
	}
	plain := "s3://bucket/p?region=r&endpoint=http://127.0.0.1:9000&path_style=true"
	require.Equal(t, plain, Redact(plain))
}

func TestTheSDKSpeaksThroughTheLogger(t *testing.T) {
	var b bytes.Buffer
	o := newOptions([]Option{WithLogger(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})))})
	sdkLogger(o.log).Logf(logging.Warn, "no %s\n", "checksum")
	require.Contains(t, b.String(), `level=DEBUG msg="no checksum" logger=aws`)
}
