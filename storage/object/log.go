package object

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/aws/smithy-go/logging"
)

// Option changes how Open opens a bucket.
type Option func(*options)

type options struct{ log *slog.Logger }

// WithLogger takes what the AWS SDK has to say. Without it that is discarded.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.log = l } }

func newOptions(opts []Option) options {
	o := options{log: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&o)
	}
	o.log = o.log.With("logger", "aws")
	return o
}

// sdkLogger gives the AWS SDK's own lines a place. Its warnings are for debugging: what fails is returned as an error, and
// told by who called.
func sdkLogger(l *slog.Logger) logging.Logger {
	return logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) {
		l.Debug(strings.TrimSpace(fmt.Sprintf(format, v...)))
	})
}
