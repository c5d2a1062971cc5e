// SPDX-License-Identifier: Apache-2.0

// Command guest is what the test of the runner has run in a VM: it does what its
// first argument says.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(70)
	}
}

func run(verb string, args []string) error {
	switch verb {
	case "exit": // with the status given
		status, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		os.Exit(status)
	case "release": // print the kernel's release and the user
		release, err := os.ReadFile("/proc/sys/kernel/osrelease")
		if err != nil {
			return err
		}
		fmt.Printf("%s%d\n", release, os.Geteuid())
	case "echo": // print the arguments and a variable
		fmt.Printf("%q %q\n", args, os.Getenv("VM_TEST"))
	case "copy": // the first file to the second
		content, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		return os.WriteFile(args[1], content, 0o600)
	case "wait": // for a signal that does not come
		fmt.Println("waiting")
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGUSR1)
		<-signals
	case "crash": // the kernel
		return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	return nil
}
