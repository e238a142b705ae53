package fsm

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/prototext"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

var update = flag.Bool("update", false, "rewrite the expected output of testdata")

// TestTranscripts applies the commands of testdata/*.txt. A block is one command
// in the text format of protobuf, or `state`, then ----, then what comes out.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			got := runTranscript(t, string(raw))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
				return
			}
			require.Equal(t, string(raw), got)
		})
	}
}

func runTranscript(t *testing.T, text string) string {
	t.Helper()
	m := newMachine(t)
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		in, _, _ := strings.Cut(block, "\n----")
		out.WriteString(in + "\n----\n" + runBlock(m, in) + "\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func runBlock(m *machine, in string) string {
	m.tb.Helper()
	var lines []string
	for line := range strings.SplitSeq(in, "\n") {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	text := strings.TrimSpace(strings.Join(lines, "\n"))
	if text == "state" {
		return dump(m.state.View())
	}
	var cmd metav1.Command
	require.NoError(m.tb, prototext.Unmarshal([]byte(text), &cmd), text)
	m.index++
	res, err := m.state.Apply(m.index, &cmd)
	if err != nil {
		return "error " + err.Error() + "\n"
	}
	require.NoError(m.tb, m.state.View().Check())
	return dumpResult(res)
}
