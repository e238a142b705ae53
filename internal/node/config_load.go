package node

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Setting describes one setting for help and documentation.
type Setting struct {
	// Name is the name in YAML and, behind two dashes, of the flag.
	Name string
	// Env are the environment variables, the strongest first.
	Env []string
	// Kind is one word for the type of the value.
	Kind string
	// Bounds says in words what is allowed; it may be empty.
	Bounds string
	// Default is what an absent setting means; empty where Help says more.
	Default string
	// Help is one line.
	Help string
}

const envPrefix = "STREAMHOUSE_"

// plainEnv are variables that work without the prefix, too.
var plainEnv = map[string]string{"log-format": "LOG_FORMAT", "log-level": "LOG_LEVEL"}

// otherEnv are variables with the prefix that are no settings of a node.
var otherEnv = []string{envPrefix + "ADDR", envPrefix + "CONFIG"}

// kubernetesEnv are variables that Kubernetes sets for a service whose name begins with streamhouse.
var kubernetesEnv = regexp.MustCompile(`^STREAMHOUSE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)$`)

func envNames(name string) []string {
	names := []string{envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}
	if plain, ok := plainEnv[name]; ok {
		names = append(names, plain)
	}
	return names
}

// Settings describes all settings in the order of the table.
func Settings() []Setting {
	var (
		c   Config
		out []Setting
	)
	for _, s := range c.settings() {
		out = append(out, Setting{
			Name: s.name, Env: envNames(s.name), Kind: s.value.kind(),
			Bounds: s.value.bounds(), Default: s.def, Help: s.help,
		})
	}
	return out
}

// Sources is where settings come from, the strongest first.
type Sources struct {
	// Flags has the flags that were given, by name without dashes.
	Flags map[string]string
	// Environ is the environment, as os.Environ returns it.
	Environ []string
	// File is the path of a YAML file; empty means none, or the one that STREAMHOUSE_CONFIG names.
	File string
}

// Load reads all settings: a flag is stronger than the environment, that is
// stronger than the YAML file, and that than the default. It fills in what
// depends on other settings and on the host, and validates the result. An error
// is a *ConfigError, or one of reading the file.
func Load(src Sources) (Config, error) {
	c := defaults()
	env, err := environment(src.Environ)
	if err != nil {
		return Config{}, err
	}
	if src.File == "" {
		src.File = env[envPrefix+"CONFIG"]
	}
	file, err := readFile(src.File)
	if err != nil {
		return Config{}, err
	}
	for _, s := range c.settings() {
		given, from, ok := strongest(s.name, src.Flags, env, file, src.File)
		if !ok {
			continue
		}
		if err := s.value.set(given); err != nil {
			return Config{}, &ConfigError{Setting: from, Problem: err.Error()}
		}
	}
	if err := c.complete(src, env, file); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// strongest returns the value of a setting and what it is called where it was found.
func strongest(name string, flags, env map[string]string, file map[string]fileValue, path string) (value, from string, ok bool) {
	if v, found := flags[name]; found {
		return v, "--" + name, true
	}
	for _, e := range envNames(name) {
		if v, found := env[e]; found {
			return v, e, true
		}
	}
	if v, found := file[name]; found {
		return v.text, fmt.Sprintf("%s:%d: %s", path, v.line, name), true
	}
	return "", "", false
}

func defaults() Config {
	var c Config
	for _, s := range c.settings() {
		if s.def == "" {
			continue
		}
		if err := s.value.set(s.def); err != nil {
			panic(fmt.Sprintf("default of %s: %v", s.name, err)) // a test holds that there is none
		}
	}
	return c
}

// complete fills in what has no fixed default.
func (c *Config) complete(src Sources, env map[string]string, file map[string]fileValue) error {
	if c.NodeID == "" {
		host, err := os.Hostname()
		if err != nil {
			return wrong("node-id", "is missing and the host has no name (%v): give one", err)
		}
		c.NodeID = nodeIDFromHost(host)
	}
	if _, _, given := strongest("bootstrap-expect", src.Flags, env, file, ""); !given && len(c.Join) == 0 {
		c.BootstrapExpect = 1
	}
	if c.Shards == 0 {
		c.Shards = max(6, 2*c.BootstrapExpect)
	}
	if c.ObjectStore != "" {
		return nil
	}
	if c.BootstrapExpect > 1 || len(c.Join) > 0 {
		return wrong("object-store", "is missing: more than one node needs one that all of them reach, s3://BUCKET/PREFIX?region=… or file:///DIR")
	}
	dir, err := filepath.Abs(filepath.Join(c.DataDir, "objects"))
	if err != nil {
		return wrong("data-dir", "%v", err)
	}
	c.ObjectStore = (&url.URL{Scheme: "file", Path: dir}).String()
	return nil
}

var notInNodeID = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)

func nodeIDFromHost(host string) string {
	id := strings.Trim(notInNodeID.ReplaceAllString(host, "-"), "-")
	if len(id) > 64 {
		id = id[:64]
	}
	if id == "" {
		return "node"
	}
	return id
}

// environment returns the variables that are settings. An empty one is as good as absent.
func environment(environ []string) (map[string]string, error) {
	known := slices.Clone(otherEnv)
	for _, s := range (&Config{}).settings() {
		known = append(known, envNames(s.name)...)
	}
	env := make(map[string]string)
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		switch {
		case slices.Contains(known, k):
			if v != "" {
				env[k] = v
			}
		case strings.HasPrefix(k, envPrefix) && !kubernetesEnv.MatchString(k):
			return nil, &ConfigError{Setting: k, Problem: "is not a setting: mend its name or unset it" + nearest(k, known)}
		}
	}
	return env, nil
}

type fileValue struct {
	text string
	line int
}

// readFile returns the settings of a YAML file: one mapping of names to scalars, or to lists of scalars.
func readFile(path string) (map[string]fileValue, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	defer func() { _ = f.Close() }()

	var doc yaml.Node
	dec := yaml.NewDecoder(f)
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, &ConfigError{Setting: path, Problem: err.Error()}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, &ConfigError{Setting: path, Problem: "has more than one YAML document"}
	}
	return readMapping(path, doc.Content[0])
}

func readMapping(path string, root *yaml.Node) (map[string]fileValue, error) {
	at := func(n *yaml.Node, format string, args ...any) error {
		return &ConfigError{Setting: fmt.Sprintf("%s:%d", path, n.Line), Problem: fmt.Sprintf(format, args...)}
	}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, at(root, "must be a mapping of settings, such as node-id: n1")
	}
	var known []string
	for _, s := range (&Config{}).settings() {
		known = append(known, s.name)
	}
	out := make(map[string]fileValue)
	for i := 0; i+1 < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		if !slices.Contains(known, k.Value) {
			return nil, at(k, "%s is not a setting: mend its name or remove it%s", k.Value, nearest(k.Value, known))
		}
		if _, twice := out[k.Value]; twice {
			return nil, at(k, "%s is set twice", k.Value)
		}
		s, err := scalarText(v)
		if err != nil {
			return nil, at(v, "%s: %s", k.Value, err)
		}
		out[k.Value] = fileValue{s, v.Line}
	}
	return out, nil
}

func scalarText(v *yaml.Node) (string, error) {
	switch {
	case v.Kind == yaml.AliasNode:
		return scalarText(v.Alias)
	case v.Kind == yaml.ScalarNode && v.Tag != "!!null":
		return v.Value, nil
	case v.Kind == yaml.SequenceNode:
		parts := make([]string, 0, len(v.Content))
		for _, e := range v.Content {
			if e.Kind != yaml.ScalarNode {
				return "", errors.New("must be a list of plain values")
			}
			parts = append(parts, e.Value)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("must be a plain value")
}

// nearest proposes the known name that differs least, when it is close.
func nearest(got string, known []string) string {
	best, distance := "", 4
	for _, k := range known {
		if d := editDistance(got, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			row[j+1] = min(above+1, row[j]+1, cost)
			diagonal = above
		}
	}
	return row[len(b)]
}
