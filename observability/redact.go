package observability

import (
	"bytes"
	"cmp"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	// redacted stands where something secret was.
	redacted = "REDACTED"
	// minSecretBytes is the shortest value that is taken for a secret: a shorter one is in too many words.
	minSecretBytes = 8
)

// secretVariables are parts of the names of environment variables whose values are secret.
var secretVariables = []string{"SECRET", "TOKEN", "PASSWORD", "_OTLP_HEADERS", "_OTLP_TRACES_HEADERS"}

// secretsOf returns the secret values of an environment, longest first: one may have another in it.
func secretsOf(environ []string) [][]byte {
	var secrets [][]byte
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		for _, part := range secretVariables {
			if len(value) >= minSecretBytes && strings.Contains(name, part) && !strings.HasSuffix(name, "_FILE") {
				secrets = append(secrets, []byte(value))
				if quoted := strconv.Quote(value); len(quoted) > len(value)+len(`""`) {
					secrets = append(secrets, []byte(quoted[1:len(quoted)-1])) // as it stands in a line
				}
				break
			}
		}
	}
	slices.SortStableFunc(secrets, func(a, b []byte) int { return cmp.Compare(len(b), len(a)) })
	return secrets
}

var (
	// keyID is an id of an AWS key. It is no secret by itself, and nobody's business.
	keyID = regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`)
	// userInfo is the name and the password in a URL.
	userInfo = regexp.MustCompile(`://[^/\s"@?#]+@`)
	// signature is what signs an S3 request, in a query or a header.
	signature = regexp.MustCompile(`(?i)(X-Amz-(?:Signature|Credential|Security-Token)(?:=|%3D|: ?|":"))[^&\s"\\]+|(Signature=)[0-9a-f]{16,}`)
)

// redactor takes secrets out of lines. Each Write is a whole line.
type redactor struct {
	w       io.Writer
	secrets [][]byte
}

// Write implements io.Writer.
func (r *redactor) Write(line []byte) (int, error) {
	n := len(line)
	for _, s := range r.secrets {
		if bytes.Contains(line, s) {
			line = bytes.ReplaceAll(line, s, []byte(redacted))
		}
	}
	if bytes.Contains(line, []byte("://")) && bytes.IndexByte(line, '@') >= 0 {
		line = userInfo.ReplaceAll(line, []byte("://"+redacted+"@"))
	}
	if bytes.Contains(line, []byte("X-Amz-")) || bytes.Contains(line, []byte("x-amz-")) || bytes.Contains(line, []byte("Signature=")) {
		line = signature.ReplaceAll(line, []byte("${1}${2}"+redacted))
	}
	if bytes.Contains(line, []byte("AKIA")) || bytes.Contains(line, []byte("ASIA")) {
		line = keyID.ReplaceAll(line, []byte(redacted))
	}
	if _, err := r.w.Write(line); err != nil {
		return 0, err
	}
	return n, nil
}
