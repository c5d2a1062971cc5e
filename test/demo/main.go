// SPDX-License-Identifier: Apache-2.0

// Command demo shows xdpd at work, in a network namespace and with a BPF FS of its own: nothing of the machine
// is touched. `make demo` runs it. XDPD_BIN_DIR names the folder with xdpd and xdpctl. Every step is checked; the
// first surprise ends the demo with status 1.
//
// It imports examples for the programs, netlink for the interfaces, and cilium/ebpf to fill a program's map as
// its owner would.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside is set in the process that has the namespaces; its value is a folder for files.
const inside = "XDPD_DEMO_INSIDE"

func main() {
	run := enter
	if os.Getenv(inside) != "" {
		run = play
	}
	if err := run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) { // else it has said why
			fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		}
		os.Exit(1)
	}
}

// enter runs this program again with a mount and a network namespace of its own, which end with it.
func enter() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("this needs root: sudo make demo")
	}
	bin, err := filepath.Abs(os.Getenv("XDPD_BIN_DIR"))
	if err != nil {
		return err
	}
	for _, name := range []string{"xdpd", "xdpctl"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("XDPD_BIN_DIR (%s) is not a folder with xdpd and xdpctl: run make demo", bin)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "xdpd-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	signal.Ignore(os.Interrupt) // the terminal sends it to the child too
	runtime.LockOSThread()      // the parent that Pdeathsig means is a thread
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), inside+"="+dir, "XDPD_BIN_DIR="+bin)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// Go makes the mounts of a new namespace private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	return cmd.Run()
}

func play() error {
	s, err := newStage(os.Getenv("XDPD_BIN_DIR"), os.Getenv(inside))
	if err != nil {
		return err
	}
	defer s.close()
	for _, act := range []func() error{s.welcome, s.begin, s.add, s.traffic, s.reorder, s.replace, s.undo, s.crash, s.end} {
		if err := act(); err != nil {
			if log := s.daemonLog(); log != "" {
				fmt.Fprintf(os.Stderr, "\nThe end of the daemon's log:\n%s", log)
			}
			return err
		}
	}
	return nil
}
