// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/client"
)

const holdHelp = `Run a command under a lease: what is added with --lifetime lease while it runs is removed when it ends,
whether it exits, crashes or is killed.

The command finds the token of the lease in XDPD_LEASE, where xdpctl add takes it from, and the daemon's socket
in XDPD_SOCKET. It gets the signals that xdpctl gets, and SIGTERM should xdpctl itself be killed. When it has ended,
xdpctl releases the lease and exits with its status, or 128 and the number of the signal that ended it.

While the daemon reloads, or is killed and started again, xdpctl waits and holds the lease again. Where the lease is lost,
because another client took it over or it ended, xdpctl says so and sends the command SIGTERM: its programs are
not its own any more. The status is not 0 then.

--grace lets the programs stay for some time when nobody holds the lease, for a next xdpctl hold --lease TOKEN.

Status, besides that of the command: 126 it cannot be executed, 127 there is no such command; else as in xdpctl --help.`

// What a shell says of commands that do not run.
const (
	exitNotExecutable = 126
	exitNoCommand     = 127
	exitSignal        = 128 // and the signal
)

// releaseTime is how long the daemon may take to remove the programs when the command has ended.
const releaseTime = 30 * time.Second

// exited is the end of xdpctl with the status of a command, about which all is said.
type exited struct{ status int }

func (e *exited) Error() string { return fmt.Sprintf("the command exited with %d", e.status) }

func (a *app) hold() *cobra.Command {
	var o client.HoldOptions
	cmd := &cobra.Command{
		Use:   "hold [--grace D] [--lease TOKEN] [--] COMMAND [ARG…]",
		Short: "Run a command under a lease: its programs go when it does",
		Long:  holdHelp,
		Example: "  xdpctl hold -- ./collector\n" +
			"  xdpctl hold --grace 10s sh -c 'xdpctl add blocklist.o --interface eth0 --lifetime lease && exec ./feeder'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return fmt.Errorf("COMMAND is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := filled(cmd, "lease"); err != nil {
				return err
			}
			if o.Grace < 0 || o.Grace > 24*time.Hour {
				return fmt.Errorf("--grace is a time from 0s to 24h; it cannot be %s", o.Grace)
			}
			return a.runHold(cmd, args, o)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // flags behind COMMAND are its own
	f.DurationVar(&o.Grace, "grace", 0, "how long the programs stay when nobody holds the lease: `D`, such as 10s")
	f.StringVar(&o.Token, "lease", "", "hold the lease of this `TOKEN`, in the place of whoever has it, and not a new one")
	complete(cmd, "grace", fixed())
	complete(cmd, "lease", fixed())
	return cmd
}

func (a *app) runHold(cmd *cobra.Command, args []string, o client.HoldOptions) error {
	if _, err := exec.LookPath(args[0]); err != nil {
		return a.notRun(args[0], err)
	}
	return a.with(func(c *client.Client) error {
		lease, err := c.Hold(cmd.Context(), o)
		if err != nil {
			return err
		}
		defer lease.Close()
		status, err := a.underLease(cmd, args, lease)
		if errors.Is(err, context.Canceled) {
			return err
		}
		if err != nil {
			return a.notRun(args[0], err)
		}
		ctx, stop := signal.NotifyContext(context.WithoutCancel(cmd.Context()), os.Interrupt, syscall.SIGTERM)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, releaseTime)
		defer cancel()
		if lease.Err() != nil {
			return &exited{max(status, exitRefused)}
		}
		if err := lease.Release(ctx); err != nil {
			fmt.Fprintln(a.err, "xdpctl: the command has ended, and its programs are not removed yet; the daemon does it when it can:")
			if ctx.Err() != nil {
				err = &failure{fmt.Errorf("the daemon at %s does not answer", a.socket)}
			}
			return &exited{max(status, a.exit(cmd, err))}
		}
		return &exited{status}
	})
}

// notRun says why a command was not run.
func (a *app) notRun(name string, err error) error {
	fmt.Fprintf(a.err, "xdpctl: run %s: %s\n", printable(name), printable(err.Error()))
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &exited{exitNoCommand}
	}
	return &exited{exitNotExecutable}
}

// underLease runs a command to its end, passes signals on to it, and ends it when the lease is lost. It returns the
// command's status, or an error if it could not be started.
func (a *app) underLease(cmd *cobra.Command, args []string, lease *client.Lease) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	if err := cmd.Context().Err(); err != nil { // the last signal that was not caught above
		return 0, err
	}
	child := exec.Command(args[0], args[1:]...) //nolint:noctx // it ends by the signals that are passed on to it
	child.Stdin, child.Stdout, child.Stderr = a.in, a.out, a.err
	child.Env = append(os.Environ(), "XDPD_LEASE="+lease.Token(), "XDPD_SOCKET="+a.socket)
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	// The parent that Pdeathsig means is a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := child.Start(); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- child.Wait() }()
	lost := lease.Lost()
	for {
		select {
		case s := <-signals:
			if !a.shared(s) {
				_ = child.Process.Signal(s) // it may have ended
			}
		case <-lost:
			lost = nil
			fmt.Fprintf(a.err, "xdpctl: the lease is lost, and %s is told to end (SIGTERM):\n", printable(args[0]))
			a.exit(cmd, lease.Err())
			_ = child.Process.Signal(unix.SIGTERM) // as above
		case err := <-done:
			return statusOf(child, err)
		}
	}
}

// shared tells whether a signal comes from the terminal, which sends it to the command as well.
func (a *app) shared(s os.Signal) bool {
	in, ok := a.in.(*os.File)
	if !ok || s != unix.SIGINT && s != unix.SIGQUIT {
		return false
	}
	foreground, err := unix.IoctlGetInt(int(in.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// statusOf is a command's status as a shell has it.
func statusOf(child *exec.Cmd, err error) (int, error) {
	if child.ProcessState == nil {
		return 0, err
	}
	if ws, ok := child.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitSignal + int(ws.Signal()), nil
	}
	return child.ProcessState.ExitCode(), nil
}
