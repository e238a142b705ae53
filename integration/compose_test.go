package integration_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// composeService has the keys that the compose file uses; another one is a mistake.
type composeService struct {
	Build *struct {
		Context    string `yaml:"context"`
		Dockerfile string `yaml:"dockerfile"`
	} `yaml:"build"`
	Image           string            `yaml:"image"`
	Command         []string          `yaml:"command"`
	Hostname        string            `yaml:"hostname"`
	Environment     map[string]string `yaml:"environment"`
	Volumes         []string          `yaml:"volumes"`
	Ports           []string          `yaml:"ports"`
	Networks        []string          `yaml:"networks"`
	NetworkMode     string            `yaml:"network_mode"`
	Restart         string            `yaml:"restart"`
	StopGracePeriod string            `yaml:"stop_grace_period"`
	DependsOn       any               `yaml:"depends_on"`
	Healthcheck     *struct {
		Test        []string `yaml:"test"`
		Interval    string   `yaml:"interval"`
		Timeout     string   `yaml:"timeout"`
		StartPeriod string   `yaml:"start_period"`
		Retries     int      `yaml:"retries"`
	} `yaml:"healthcheck"`
}

type composeFile struct {
	Name         string                    `yaml:"name"`
	XNode        composeService            `yaml:"x-node"`
	XEnvironment map[string]string         `yaml:"x-node-environment"`
	Services     map[string]composeService `yaml:"services"`
	Networks     map[string]struct{}       `yaml:"networks"`
	Volumes      map[string]struct{}       `yaml:"volumes"`
}

// The compose file is whole: what it mounts and refers to is there, images have a version, and only loopback is opened.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	var f composeFile
	decodeStrictly(t, deployed(t, "compose.yml"), &f)
	pinned := regexp.MustCompile(`^[a-z0-9./-]+:v?\d+\.\d+\.\d+$`)
	for name, s := range f.Services {
		if s.Build == nil {
			require.Regexp(t, pinned, s.Image, name)
		} else {
			require.FileExists(t, deployed(t, s.Build.Context, s.Build.Dockerfile), name)
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(source, ".") {
				require.Contains(t, f.Volumes, source, name)
				continue
			}
			_, err := os.Stat(deployed(t, source))
			require.NoError(t, err, name)
		}
		for _, p := range s.Ports {
			require.True(t, strings.HasPrefix(p, "127.0.0.1:"), "%s opens %s", name, p)
		}
		for _, n := range s.Networks {
			require.Contains(t, f.Networks, n, name)
		}
		for other, condition := range dependencies(t, s) {
			require.Contains(t, f.Services, other, name)
			require.Equal(t, condition == "service_healthy", f.Services[other].Healthcheck != nil, "%s waits for %s", name, other)
		}
	}
	scraped, err := os.ReadFile(deployed(t, "prometheus", "prometheus.yml"))
	require.NoError(t, err)
	for _, id := range []string{"n1", "n2", "n3"} {
		n := f.Services[id]
		require.Equal(t, id, n.Environment["STREAMHOUSE_NODE_ID"])
		require.Equal(t, id, n.Environment["STREAMHOUSE_ADVERTISE_ADDR"])
		require.Equal(t, "3", n.Environment["STREAMHOUSE_BOOTSTRAP_EXPECT"])
		require.Contains(t, dependencies(t, n), "s3")
		requireHealthCommand(t, n.Healthcheck.Test)
		require.Equal(t, "http://otel-collector:4317", n.Environment["OTEL_EXPORTER_OTLP_ENDPOINT"])
		require.Contains(t, string(scraped), "targets: ["+id+":8080]\n        labels: {node: "+id+"}")
		for join := range strings.SplitSeq(n.Environment["STREAMHOUSE_JOIN"], ",") {
			host, _, _ := strings.Cut(join, ":")
			require.NotEqual(t, id, host)
			require.Contains(t, f.Services, host)
		}
	}
	require.FileExists(t, filepath.Join(filepath.Dir(deployed(t)), ".dockerignore"))
}

// requireHealthCommand wants a command of a node's program, which asks at the address that it has there.
func requireHealthCommand(t *testing.T, test []string) {
	t.Helper()
	require.Equal(t, []string{"CMD", "/streamhouse"}, test[:2])
	help, err := exec.CommandContext(t.Context(), harness.Binary(t), append(test[2:], "--help")...).Output()
	require.NoError(t, err)
	require.Contains(t, string(help), "streamhouse "+test[2]+" [flags]")
	require.Contains(t, string(help), `(default "127.0.0.1:8080")`)
}

// dependencies are the services that one depends on, from either form, with what it waits for.
func dependencies(t *testing.T, s composeService) map[string]string {
	t.Helper()
	on := make(map[string]string)
	switch d := s.DependsOn.(type) {
	case nil:
	case []any:
		for _, name := range d {
			on[name.(string)] = "service_started"
		}
	case map[string]any:
		for name, how := range d {
			condition := how.(map[string]any)["condition"]
			require.Contains(t, []any{"service_started", "service_healthy", "service_completed_successfully"}, condition)
			on[name] = condition.(string)
		}
	default:
		t.Fatalf("depends_on is a %T", d)
	}
	return on
}
