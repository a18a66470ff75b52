// Package version says which build this is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Release is the version of this source tree.
const Release = "0.1.0"

// String returns the release, the commit it was built from where the build
// knows it, and the Go version.
func String() string {
	commit := ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				commit = " (" + s.Value[:12] + ")"
			}
		}
	}
	return fmt.Sprintf("v%s%s %s", Release, commit, runtime.Version())
}
