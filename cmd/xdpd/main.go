// SPDX-License-Identifier: Apache-2.0

// Command xdpd lets several XDP programs share a network interface: it puts a chain on the interface, and adds,
// orders and removes programs as gRPC requests on a unix socket ask for. See docs/operating.md.
//
// It imports everything that has to be wired together, cobra for the commands, go-yaml for the configuration
// and go-systemd for the messages to the service manager.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/control"
)

// version is set by the linker.
var version = "dev"

func main() {
	d := daemon{
		open: open, teardown: control.Teardown, probe: dispatcher.Supports,
		outdated: outdated, verify: askSuccessor, replace: (*successor).execute,
	}
	os.Exit(run(context.Background(), d, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func open(cfg control.Config, log *slog.Logger) (controller, error) { return control.Open(cfg, log) }
