package observability

import (
	"runtime"
	"runtime/debug"
)

// BuildInfo says which binary this is.
type BuildInfo struct {
	Version   string
	Revision  string
	Modified  bool
	GoVersion string
}

// Build reads what the Go toolchain has written into the binary.
func Build() BuildInfo {
	b := BuildInfo{Version: "devel", Revision: "unknown", GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}
