package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/streamhouse/streamhouse/"

// area is a part of the tree. A package may import what is of a lower rank, and
// what is in its own area. The first prefix that fits counts.
type area struct {
	prefix string
	rank   int
}

var areas = []area{
	{"api/", 0},
	{"internal/archtest", 0},
	{"internal/tracing", 0},
	{"internal/pause", 0},
	{"internal/disk", 0},
	{"internal/cputime", 0}, // of benchmarks
	{"storage/record", 5},   // what the wire and the log are made of
	{"storage/", 10},
	{"fsm", 10},
	{"client", 10},
	{"observability", 10},
	{"cluster/", 20},
	{"broker/group", 29}, // pure; a shard's log applies it
	{"broker/shard", 30},
	{"broker/rpc", 32},
	{"broker", 31},
	{"internal/node", 40},
	{"cmd/", 50},
	{"tools/", 50},
}

// wiring are the areas that may import observability: all others take a
// prometheus.Registerer and a *slog.Logger.
var wiring = []string{"internal/node", "cmd/"}

func areaOf(path string) (area, bool) {
	for _, a := range areas {
		if path == strings.TrimSuffix(a.prefix, "/") || strings.HasPrefix(path, strings.TrimSuffix(a.prefix, "/")+"/") {
			return a, true
		}
	}
	return area{}, false
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pkgs
		}
		require.NoError(t, err)
		pkgs = append(pkgs, p)
	}
}

// Run it with -count=1: the test cache does not see what go list reads.
func TestImportsFlowDown(t *testing.T) {
	pkgs := packages(t)
	require.NotEmpty(t, pkgs)
	for _, p := range pkgs {
		from := strings.TrimPrefix(p.ImportPath, module)
		fromArea, ok := areaOf(from)
		if !ok {
			t.Errorf("%s has no rank: add it to the table", from)
			continue
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, module)
			if !ours {
				continue
			}
			toArea, ok := areaOf(to)
			if !ok || toArea == fromArea {
				continue // one without a rank is named above
			}
			if toArea.rank >= fromArea.rank {
				t.Errorf("%s (rank %d) imports %s (rank %d)", from, fromArea.rank, to, toArea.rank)
			}
			if toArea.prefix == "observability" && !slices.Contains(wiring, fromArea.prefix) {
				t.Errorf("%s imports %s: take a prometheus.Registerer and a *slog.Logger", from, to)
			}
		}
	}
}
