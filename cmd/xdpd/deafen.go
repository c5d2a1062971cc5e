// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deafen ends the hearing of signals, just before the process is replaced, and tells what the daemon was told until
// then. From here on SIGHUP is ignored, and a signal to stop ends the process at once, until undo is called.
//
// None may get lost between one program and the next. A handler's is, if the exec ends the thread that it runs in: so the
// kernel gets the ends itself to do, which no exec overtakes, and the handlers that began before are waited for.
// SIGHUP would end the process too. It need not be heard: the next program reads the configuration after it has begun to
// hear, and looks whether it is the newest.
func (o *orders) deafen(ctx context.Context) (told order, undo func() error, err error) {
	signal.Ignore(syscall.SIGHUP)
	undo = func() error { return nil }
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		before, err := setAction(s, action{})
		if err != nil {
			return none, undo, err
		}
		inner := undo
		undo = func() error {
			if _, err := setAction(s, before); err != nil {
				return err
			}
			return inner()
		}
	}
	// A thread runs this when it has left its handler. With cgo, which no release has, it is an error and does nothing.
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
	signal.Stop(o.stops) // returns when what the handlers took is in the channel
	o.release()
	if len(o.stops) > 0 {
		o.stop.Store(true)
	}
	return o.given(ctx), undo, nil
}

// action is a kernel's struct sigaction, which is not longer on any architecture; zero: the default.
type action [8]uint64

// setAction sets what a signal does, past package signal, and returns what it did.
func setAction(s syscall.Signal, next action) (before action, err error) {
	const maskSize = 8
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&next)), uintptr(unsafe.Pointer(&before)), maskSize, 0, 0)
	if errno != 0 {
		return before, fmt.Errorf("set the action of %v: %w", s, errno)
	}
	return before, nil
}
