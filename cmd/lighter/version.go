// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// version is set by the linker for releases.
var version = "devel"

type versionInfo struct {
	Version     string   `json:"version"`
	Commit      string   `json:"commit"`
	Go          string   `json:"go"`
	Formats     []string `json:"formats"`
	Compressors []string `json:"compressors"`
	Kernel      string   `json:"kernel"`
	FUSE        bool     `json:"fuse"`  // /dev/fuse is there
	EROFS       bool     `json:"erofs"` // the kernel has the file system, loaded or built in
}

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Version, formats, and what this kernel can do",
		Example: "  lighter version --json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := thisVersion()
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, v)
			}
			fmt.Fprintf(w, "lighter %s, commit %s, %s\n", v.Version, v.Commit, v.Go)
			fmt.Fprintf(w, "formats: %s; compressors: %s\n", strings.Join(v.Formats, ", "), strings.Join(v.Compressors, ", "))
			fmt.Fprintf(w, "kernel %s: fuse %t, erofs %t\n", v.Kernel, v.FUSE, v.EROFS)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func thisVersion() versionInfo {
	v := versionInfo{Version: version, Commit: "unknown", Go: runtime.Version(), Formats: []string{"RAFS v6"}, Compressors: []string{"zstd", "lz4_block", "none"}}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		v.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if st, err := os.Stat("/dev/fuse"); err == nil {
		v.FUSE = st.Mode()&os.ModeCharDevice != 0
	}
	raw, err := os.ReadFile("/proc/filesystems")
	v.EROFS = err == nil && strings.Contains(string(raw), "\terofs\n")
	return v
}
