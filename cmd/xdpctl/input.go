// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// isTerminal tells whether a standard file is one.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// reader makes a function an io.Reader.
type reader func([]byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }

// untilDone returns a reader of in whose reads end with ctx, and then return its error. A terminal or pipe on
// which nothing comes would else keep a process that was asked to end.
func untilDone(ctx context.Context, in io.Reader) io.Reader {
	file, ok := in.(*os.File)
	if !ok {
		return in
	}
	return reader(func(b []byte) (int, error) {
		if err := readable(ctx, file); err != nil {
			return 0, err
		}
		return file.Read(b)
	})
}

// readable returns nil as soon as a read of the file does not block, or the error of ctx.
func readable(ctx context.Context, file *os.File) error {
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer unix.Close(wake[0])
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		unix.Close(wake[1])
		close(woken)
	})
	defer func() {
		if stop() {
			unix.Close(wake[1])
		} else {
			<-woken
		}
	}()
	fds := []unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLIN}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for input: %w", err)
		default:
			return nil
		}
	}
}
