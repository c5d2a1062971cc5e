// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is the daemon's socket. It outlives the server on it, if that hands over: the next program of the
// process goes on with it, and those who connect meanwhile wait.
type Listener struct {
	socket *net.UnixListener
	path   string
	rest   func()        // closes quiet
	quiet  chan struct{} // closed when Accept has noticed the pause
	ended  chan struct{} // closed by Close

	mu       sync.Mutex // protects what follows
	paused   bool
	closed   bool
	arriving int           // connections that were accepted, and that the server does not know yet
	arrived  chan struct{} // closed when there are none, if somebody waits for that
}

func newListener(socket *net.UnixListener, path string) *Listener {
	quiet := make(chan struct{})
	rest := sync.OnceFunc(func() { close(quiet) })
	return &Listener{socket: socket, path: path, rest: rest, quiet: quiet, ended: make(chan struct{})}
}

// Accept waits for the next connection, but for good once the listener is paused. It is for one goroutine.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.socket.AcceptUnix()
	switch {
	case err == nil:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.arriving++
		return &arrival{UnixConn: conn, noticed: sync.OnceFunc(l.noticed)}, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.rest()
		<-l.ended
		return nil, net.ErrClosed
	}
	return nil, err
}

// arrival is a connection until the server has taken notice of it. One that is accepted while the server begins to
// stop is closed by grpc without a word, which its client takes for a failure.
type arrival struct {
	*net.UnixConn
	noticed func()
}

func (l *Listener) noticed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.arriving--; l.arriving == 0 && l.arrived != nil {
		close(l.arrived)
		l.arrived = nil
	}
}

// pause ends accepting without closing the socket, and returns when the server knows every connection that was
// accepted.
func (l *Listener) pause(ctx context.Context) error {
	l.mu.Lock()
	l.paused = true
	l.mu.Unlock()
	if err := l.socket.SetDeadline(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("pause accepting on %s: %w", l.path, err)
	}
	for _, reached := range []func() <-chan struct{}{func() <-chan struct{} { return l.quiet }, l.allArrived} {
		select {
		case <-reached():
		case <-l.ended:
			return fmt.Errorf("pause accepting on %s: %w", l.path, net.ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("pause accepting on %s: %w", l.path, context.Cause(ctx))
		}
	}
	return nil
}

// allArrived returns a channel that is closed when the server knows all connections.
func (l *Listener) allArrived() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.arriving == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if l.arrived == nil {
		l.arrived = make(chan struct{})
	}
	return l.arrived
}

// Close ends Accept. It removes the socket, unless the listener is paused.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.ended)
	if l.paused {
		return nil
	}
	return l.remove()
}

// Remove closes the listener, paused or not, and removes the socket. Doing so again does nothing.
func (l *Listener) Remove() error {
	err := l.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(err, l.remove())
}

func (l *Listener) remove() error {
	if err := l.socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close %s: %w", l.path, err)
	}
	return nil
}

// Addr is the socket's address.
func (l *Listener) Addr() net.Addr { return l.socket.Addr() }

// Bequeath makes the descriptor of a paused listener survive an exec, and returns what Inherit of the next
// program takes. It is for the last moment, so that no other child of this process gets the descriptor.
func (l *Listener) Bequeath() (handle string, err error) {
	raw, err := l.socket.SyscallConn()
	if err == nil {
		outer := raw.Control(func(fd uintptr) {
			handle = strconv.Itoa(int(fd))
			_, err = unix.FcntlInt(fd, unix.F_SETFD, 0)
		})
		err = errors.Join(outer, err)
	}
	if err != nil {
		return "", fmt.Errorf("keep %s open for the next program: %w", l.path, err)
	}
	return handle, nil
}

// Inherit goes on with the socket that the program before this one in the same process bequeathed, with this
// mode and group. It must listen, be bound to this path, and the file there must be its own. The caller removes
// the listener. After an error the handle is of no use, and what it leads to, if it is such a socket, is closed.
func Inherit(handle, path string, mode os.FileMode, group string) (_ *Listener, err error) {
	fd, err := strconv.ParseUint(handle, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("take over the socket: %q is not a descriptor", handle)
	}
	if err := listens(int(fd)); err != nil {
		return nil, fmt.Errorf("take over the socket: descriptor %d: %w", fd, err) // not ours to close
	}
	unix.CloseOnExec(int(fd))
	file := os.NewFile(uintptr(fd), path)
	defer func() { err = errors.Join(err, file.Close()) }() // what comes of it has a duplicate
	if err := boundTo(int(fd), path); err != nil {
		return nil, fmt.Errorf("take over the socket: %w", err)
	}
	gid, err := lookupGroup(group)
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", path, err)
	}
	if err := admit(path, mode, gid); err != nil {
		return nil, err
	}
	lis, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", path, err)
	}
	socket, ok := lis.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take over %s: it is a %T", path, lis), lis.Close())
	}
	socket.SetUnlinkOnClose(true)
	return newListener(socket, path), nil
}

// listens returns an error unless fd is a unix stream socket that listens.
func listens(fd int) error {
	for _, want := range []struct{ option, value int }{
		{unix.SO_DOMAIN, unix.AF_UNIX}, {unix.SO_TYPE, unix.SOCK_STREAM}, {unix.SO_ACCEPTCONN, 1},
	} {
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, want.option); err != nil {
			return err
		} else if got != want.value {
			return errors.New("it is not a unix stream socket that listens")
		}
	}
	return nil
}

// siocUnixFile makes a descriptor of the file that a unix socket is bound to; linux/un.h.
const siocUnixFile = unix.SIOCPROTOPRIVATE

// boundTo returns an error unless the socket is bound to path and the file that is there now is the one that it
// was bound to.
func boundTo(fd int, path string) error {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("ask for its path: %w", err)
	}
	if at, ok := name.(*unix.SockaddrUnix); !ok || at.Name != path {
		return fmt.Errorf("it is bound to %v, not to %s", name, path)
	}
	bound, err := unix.IoctlRetInt(fd, siocUnixFile)
	if err != nil {
		return fmt.Errorf("ask for the file that it is bound to: %w", err)
	}
	defer unix.Close(bound)
	var own, there unix.Stat_t
	if err := unix.Fstat(bound, &own); err != nil {
		return fmt.Errorf("look at the file that it is bound to: %w", err)
	}
	if err := unix.Lstat(path, &there); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if own.Dev != there.Dev || own.Ino != there.Ino {
		return fmt.Errorf("%s is another file by now", path)
	}
	return nil
}
