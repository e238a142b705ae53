package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Environment that steers the tests.
const (
	// EnvBinary names a server binary to test instead of building one.
	EnvBinary = "STREAMHOUSE_BINARY"
	// EnvRace set to 1 builds the server with the race detector.
	EnvRace = "STREAMHOUSE_RACE"
	// EnvVersitygw names the S3 server's binary.
	EnvVersitygw = "STREAMHOUSE_VERSITYGW"
	// EnvTestData names the directory of the sample logs.
	EnvTestData = "STREAMHOUSE_TESTDATA"
	// EnvNightly set to 1 runs the long versions.
	EnvNightly = "STREAMHOUSE_NIGHTLY"
)

// Nightly reports whether the long versions are to run.
func Nightly() bool { return os.Getenv(EnvNightly) == "1" }

// Repeat is 1, and n in a nightly run.
func Repeat(n int) int {
	if Nightly() {
		return n
	}
	return 1
}

// Root returns the root of the repository.
var Root = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/streamhouse/streamhouse\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("the repository's go.mod is in no directory above this one")
		}
		dir = parent
	}
})

var build = struct {
	once sync.Once
	dir  string
	path string
	err  error
}{}

// Main builds the server once, runs the tests and removes what was built. Call it from TestMain. It is also the main
// function of consumer processes, which are the test binary started again.
func Main(m *testing.M) {
	if asked, err := consumeIfAsked(); asked {
		if err != nil {
			panic(err) // its output is shown where the test fails
		}
		return
	}
	defer func() {
		if build.dir != "" {
			_ = os.RemoveAll(build.dir)
		}
	}()
	m.Run()
}

// Binary returns the path of the streamhouse binary, built at the first call.
func Binary(tb testing.TB) string {
	tb.Helper()
	build.once.Do(func() { build.path, build.err = buildServer() })
	if build.err != nil {
		tb.Fatalf("build the server: %v", build.err)
	}
	return build.path
}

func buildServer() (string, error) {
	if p := os.Getenv(EnvBinary); p != "" {
		return filepath.Abs(p)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	if build.dir, err = os.MkdirTemp("", "streamhouse-build-"); err != nil {
		return "", err
	}
	path := filepath.Join(build.dir, "streamhouse")
	args := []string{"build", "-o", path}
	if os.Getenv(EnvRace) == "1" {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(context.Background(), "go", append(args, "./cmd/streamhouse")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// versitygwPath finds the S3 server: the environment, bin/ of the repository, PATH.
func versitygwPath() (string, error) {
	if p := os.Getenv(EnvVersitygw); p != "" {
		return p, nil
	}
	return toolPath("versitygw")
}

// toolPath finds a program in bin/ of the repository, or in PATH.
func toolPath(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	p := filepath.Join(root, "bin", name)
	if _, err := os.Stat(p); err == nil {
		return p, nil
	}
	if p, err = exec.LookPath(name); err != nil {
		return "", fmt.Errorf("no %s in bin/ or PATH: run `make test`, which installs it: %w", name, err)
	}
	return p, nil
}

// ToolPath finds a program that `make test` installs, or ends the test.
func ToolPath(tb testing.TB, name string) string {
	tb.Helper()
	p, err := toolPath(name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// TestData returns the paths of the sample logs; they must be there.
func TestData(tb testing.TB) []string {
	tb.Helper()
	dir := os.Getenv(EnvTestData)
	if dir == "" {
		root, err := Root()
		if err != nil {
			tb.Fatal(err)
		}
		dir = filepath.Join(root, "..", "shared", "data")
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		tb.Fatal(err)
	}
	if len(logs) != 5 {
		tb.Fatalf("%d sample logs in %s, not 5: put them there, or name their directory in %s", len(logs), dir, EnvTestData)
	}
	return logs
}
