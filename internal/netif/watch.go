// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// LinkEvent says that something about an interface changed: it came, went, or has another name, state, address…
type LinkEvent struct {
	Name   string // as it is now; if it is gone, as it was
	Index  int
	Gone   bool // from the namespace: deleted, or moved to another one
	Resync bool // events are missing before this one, which has nothing else: look at all interfaces again
}

const (
	// watchQueue is how many bytes of notifications may wait to be read. The kernel counts some 4 KiB for each and
	// takes the memory only as it needs it; so much is for hosts that make thousands of interfaces at once.
	watchQueue = 16 << 20
	// watchDatagram is more than the kernel puts into one notification.
	watchDatagram = 64 << 10
)

// Watch calls f for every change of an interface in the network namespace of the calling thread, in order, until
// ctx ends, for which it returns nil. It calls ready once before, when no later change can be missed: who looks at all
// interfaces there and follows the events knows them all. Both are called on the calling goroutine.
//
// While f takes its time, events wait in the kernel; when these are too many, the kernel drops some, and f
// gets one with Resync in place of all that wait. A rename is an event with the new name and the same index.
func Watch(ctx context.Context, ready func(), f func(LinkEvent)) error {
	return watch(ctx, watchQueue, ready, f)
}

func watch(ctx context.Context, queue int, ready func(), f func(LinkEvent)) (err error) {
	s, err := openLinkSocket(queue)
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	defer func() { err = errors.Join(err, s.file.Close()) }()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = s.file.SetReadDeadline(time.Unix(1, 0)) // fails only for what is closed or Go's poller does not watch
	})
	defer func() {
		if !stop() {
			<-interrupted
		}
	}()
	ready()
	for {
		events, err := s.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch interfaces: %w", err)
		}
		for _, e := range events {
			f(e)
		}
	}
}

// linkSocket receives the kernel's notifications about interfaces. The netlink library has one too, which ends at
// the first overrun.
type linkSocket struct {
	file *os.File
	conn syscall.RawConn
	buf  []byte
}

// openLinkSocket opens a socket in the calling thread's namespace. The caller closes its file.
func openLinkSocket(queue int) (*linkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "netlink socket")
	conn, err := file.SyscallConn()
	// Only what Go's poller watches can have a deadline of its own, which is how Watch is interrupted.
	err = errors.Join(err, file.SetReadDeadline(time.Time{}), setQueue(fd, queue))
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up a netlink socket: %w", err), file.Close())
	}
	return &linkSocket{file: file, conn: conn, buf: make([]byte, watchDatagram)}, nil
}

// setQueue makes the queue that long, or without CAP_NET_ADMIN as long as the host allows.
func setQueue(fd, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
}

// next waits for a notification and returns its events, or after an overrun a Resync. Once the deadline of the
// socket's file has passed the error is os.ErrDeadlineExceeded.
func (s *linkSocket) next() (events []LinkEvent, err error) {
	var failed error
	overrun := false
	err = s.conn.Read(func(fd uintptr) (done bool) {
		for {
			n, from, err := unix.Recvfrom(int(fd), s.buf, unix.MSG_TRUNC)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.ENOBUFS):
				// The kernel says so once, and drops what comes until the queue is empty: only then is it true
				// that nothing is missed after the Resync.
				overrun = true
			case errors.Is(err, unix.EAGAIN):
				return overrun
			case err != nil:
				failed = fmt.Errorf("receive: %w", err)
				return true
			case !overrun:
				events = s.read(n, from)
				return true
			}
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	if overrun {
		return []LinkEvent{{Resync: true}}, nil
	}
	return events, nil
}

// read returns the events of a datagram of n bytes, of which s.buf has as many as it can hold.
func (s *linkSocket) read(n int, from unix.Sockaddr) []LinkEvent {
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return nil
	}
	if n <= len(s.buf) {
		if events, ok := parseLinkEvents(s.buf[:n]); ok {
			return events
		}
	}
	return []LinkEvent{{Resync: true}} // it was about some interface
}

// parseLinkEvents returns the events of a datagram from the kernel; false if it is not well-formed.
func parseLinkEvents(datagram []byte) (events []LinkEvent, ok bool) {
	ok = eachMessage(datagram, func(h header, body []byte) bool {
		if h.kind != unix.RTM_NEWLINK && h.kind != unix.RTM_DELLINK {
			return true
		}
		link, ok := readLink(body)
		if ok && body[0] == unix.AF_UNSPEC { // else about a part of it: DELLINK of AF_BRIDGE is an interface that left its bridge
			events = append(events, LinkEvent{Name: link.Name, Index: link.Index, Gone: h.kind == unix.RTM_DELLINK})
		}
		return ok
	})
	if !ok {
		return nil, false
	}
	return events, true
}
