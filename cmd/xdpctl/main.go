// SPDX-License-Identifier: Apache-2.0

// Command xdpctl is the command line of the xdpd daemon: it adds XDP programs to the chains of interfaces,
// orders and removes them, and shows what each of them does to the packets.
//
// It imports client and the generated API, and cobra for the command line.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, stdio{os.Stdin, os.Stdout, os.Stderr}))
}
