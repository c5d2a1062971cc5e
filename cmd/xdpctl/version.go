// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=…); empty: what the Go toolchain knows of the module is used.
var version string

// build is what there is to know of this binary.
type build struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version of xdpctl",
		Long:              "Print the version of xdpctl. That of the daemon is part of xdpctl status.",
		Args:              atMost(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				b.Version = cmp.Or(b.Version, info.Main.Version)
			}
			b.Version = cmp.Or(b.Version, "unknown")
			text, err := json.Marshal(b)
			if err != nil {
				return &failure{err}
			}
			return a.printJSON(text, func(w io.Writer) {
				fmt.Fprintf(w, "xdpctl %s, %s, %s\n", b.Version, b.Go, b.Platform)
			})
		},
	}
}
