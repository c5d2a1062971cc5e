// SPDX-License-Identifier: Apache-2.0

// Package boottime tells the time since boot, and waits for it. That clock (CLOCK_BOOTTIME) goes on while the host
// sleeps, and nobody can set it.
//
// It imports x/sys/unix for the clock and its timer, which the standard library does not have.
package boottime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time since boot.
func Now() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("read the time since boot: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// Timer waits for a time since boot. A host that sleeps is not woken by it; if the deadline passes meanwhile, the wait
// ends when the host wakes. One goroutine at a time may Wait; Set and Close can be called at any time.
type Timer struct {
	file *os.File // owns the timer's descriptor
	conn syscall.RawConn
}

// NewTimer returns a timer without a deadline. The caller closes it.
func NewTimer() (*Timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	file := os.NewFile(uintptr(fd), "timer of the time since boot")
	conn, err := file.SyscallConn()
	// Only what Go's poller watches can have a deadline of its own, which is how Wait is interrupted.
	if err = errors.Join(err, file.SetReadDeadline(time.Time{})); err != nil {
		return nil, errors.Join(fmt.Errorf("make a timer: %w", err), file.Close())
	}
	return &Timer{file: file, conn: conn}, nil
}

// Set gives the timer a deadline as a time since boot, in place of the one it had; 0: none. A Wait under way
// goes on with the new one.
func (t *Timer) Set(deadline time.Duration) error {
	if deadline < 0 { // long past, but the kernel would not take it
		deadline = 1
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(deadline.Nanoseconds())}
	var set error
	err := t.conn.Control(func(fd uintptr) {
		set = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	})
	if err = errors.Join(closed(err), set); err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	return nil
}

// Wait returns nil when the deadline has passed, again and at once until another is set. Without a deadline it
// waits for one. The errors are that of ctx, which comes first, and os.ErrClosed when the timer is closed.
func (t *Timer) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = t.file.SetReadDeadline(time.Unix(1, 0)) // it is closed if this fails, and nobody waits
	})
	defer func() {
		if !stop() {
			<-interrupted
			_ = t.file.SetReadDeadline(time.Time{}) // as above
		}
	}()
	var polled error
	err := t.conn.Read(func(fd uintptr) (done bool) {
		var passed bool
		passed, polled = readable(fd)
		return passed || polled != nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	if err = errors.Join(closed(err), polled); err != nil {
		return fmt.Errorf("wait for a timer: %w", err)
	}
	return nil
}

// Close ends the timer, and a Wait under way.
func (t *Timer) Close() error {
	if err := t.file.Close(); err != nil {
		return fmt.Errorf("close a timer: %w", err)
	}
	return nil
}

// readable tells whether the deadline has passed. It leaves it to be read, so that it stays so until Set.
func readable(fd uintptr) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) { // which a signal can cause although this never waits
			return n > 0, err
		}
	}
}

// closed names the one reason left for which a raw connection refuses that Go's poller watches.
func closed(err error) error {
	if err != nil {
		return os.ErrClosed
	}
	return nil
}
