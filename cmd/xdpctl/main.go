// SPDX-License-Identifier: Apache-2.0

// Command xdpctl is the command line of the xdpd daemon: it adds XDP programs to the chains of interfaces,
// orders and removes them, and shows what each of them does to the packets.
//
// It imports client and the generated API, cobra for the command line, go-yaml to read files of chains, and gopacket
// to read captures.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, stdio{os.Stdin, os.Stdout, os.Stderr}))
}
