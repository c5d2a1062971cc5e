// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// runNetns is where iproute2 keeps named network namespaces.
const runNetns = "/run/netns"

// Do calls f on a thread that is in that namespace, and returns what f returns. It waits for f, and a panic or Goexit in f
// goes on in the caller. Sockets that f opens belong to the namespace; goroutines that it starts are outside. With "" it
// only calls f.
func Do(netns string, f func() error) error {
	if netns == "" {
		return f()
	}
	ns, err := open(netns)
	if err != nil {
		return err
	}
	defer ns.close()
	if ns.own {
		return f()
	}
	call := call{f: f}
	call.elsewhere(ns)
	switch {
	case call.panicked != nil:
		panic(call.panicked)
	case call.goexit:
		runtime.Goexit()
	}
	return call.err
}

// call is a function that is called in a namespace, and how it ended.
type call struct {
	f        func() error
	err      error
	panicked *Panic
	goexit   bool
}

// Panic is what Do panics with.
type Panic struct {
	Value any    // what f panicked with
	Stack []byte // where
}

// Error says both.
func (p *Panic) Error() string { return fmt.Sprintf("%v\n\n%s", p.Value, p.Stack) }

// elsewhere calls the function on another goroutine, as only one that ends can take its thread with it, and waits for it.
func (c *call) elsewhere(ns *namespace) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.in(ns)
	}()
	<-done
}

// in calls the function with the goroutine's thread in ns. If the thread cannot come back it ends with the goroutine.
func (c *call) in(ns *namespace) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() { // the main thread never ends; while it is locked here, another goroutine has another
		defer runtime.UnlockOSThread()
		c.elsewhere(ns)
		return
	}
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		c.err = fmt.Errorf("open the thread's network namespace: %w", err)
		return
	}
	defer unix.Close(home)
	if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		c.err = ns.unusable("enter", err)
		return
	}
	defer func() {
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	c.goexit = true
	defer func() {
		if value := recover(); value != nil {
			c.goexit, c.panicked = false, &Panic{Value: value, Stack: debug.Stack()}
		}
	}()
	c.err = c.f()
	c.goexit = false
}

// NetnsCookie identifies the calling thread's network namespace. Since Linux 5.14 it is the kernel's cookie,
// which is never used twice until a reboot, and exact is true; before, it is the namespace's inode, which the
// kernel may give to another namespace once this one is gone.
func NetnsCookie() (id uint64, exact bool, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, false, fmt.Errorf("open a socket for the namespace's cookie: %w", err)
	}
	defer unix.Close(fd)
	return cookieOf(fd)
}

// cookieOf is NetnsCookie for the thread that opened the socket.
func cookieOf(fd int) (id uint64, exact bool, err error) {
	return netnsCookie(func() (uint64, error) {
		return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
}

func netnsCookie(ask func() (uint64, error)) (id uint64, exact bool, err error) {
	if id, err = ask(); err == nil {
		return id, true, nil
	}
	if !errors.Is(err, unix.ENOPROTOOPT) {
		return 0, false, fmt.Errorf("ask for the namespace's cookie: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, false, fmt.Errorf("find the namespace's inode: %w", err)
	}
	return st.Ino, false, nil
}

// Namespaces returns the names in /run/netns that are network namespaces and can be part of a reference, sorted.
func Namespaces() (names []string, err error) {
	entries, err := os.ReadDir(runNetns)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	for _, entry := range entries {
		if _, _, err := chain.ParseInterface(entry.Name() + ":x"); err != nil {
			continue
		}
		ns, err := open(entry.Name())
		if errors.Is(err, &chain.Error{Reason: chain.NetnsNotFound}) {
			continue // it went, or is something else
		}
		if err != nil {
			return nil, err
		}
		ns.close()
		names = append(names, entry.Name())
	}
	return names, nil
}

// namespace is an open network namespace. It cannot die before it is closed.
type namespace struct {
	name string
	fd   int
	own  bool // the calling thread is in it
}

// open opens a namespace for as short as possible.
//
// What a client names may be anything, and opening some files waits (a FIFO) or does something (a device). So it is only
// looked at first: as O_PATH, which opens nothing, and with a statx that asks no server behind a file system. What
// is in the kernel's file system of namespaces can be opened.
func open(netns string) (_ *namespace, err error) {
	path := netns
	if !strings.HasPrefix(netns, "/") {
		path = runNetns + "/" + netns
	}
	ns := &namespace{name: netns}
	place, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, ns.unusable("open", err)
	}
	defer unix.Close(place)
	found, err := look(place)
	if err != nil {
		return nil, ns.unusable("look at", err)
	}
	own, err := here()
	if err != nil {
		return nil, err
	}
	if found.Dev_major != own.Dev_major || found.Dev_minor != own.Dev_minor {
		return nil, ns.isNone()
	}
	ns.own = found.Ino == own.Ino
	ns.fd, err = unix.Open(fmt.Sprintf("/proc/thread-self/fd/%d", place), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, ns.unusable("open", err)
	}
	kind, err := unix.IoctlRetInt(ns.fd, unix.NS_GET_NSTYPE)
	if err != nil {
		ns.close()
		return nil, ns.unusable("look at", err)
	}
	if kind != unix.CLONE_NEWNET {
		ns.close()
		return nil, ns.isNone()
	}
	return ns, nil
}

func (ns *namespace) close() { _ = unix.Close(ns.fd) } // nothing was written

// here looks at the namespace of the calling thread.
func here() (unix.Statx_t, error) {
	place, err := unix.Open("/proc/thread-self/ns/net", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return unix.Statx_t{}, fmt.Errorf("find the thread's network namespace: %w", err)
	}
	defer unix.Close(place)
	own, err := look(place)
	if err != nil {
		return unix.Statx_t{}, fmt.Errorf("look at the thread's network namespace: %w", err)
	}
	return own, nil
}

// look asks what the kernel knows of a file without asking anybody else.
func look(fd int) (st unix.Statx_t, err error) {
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return st, err
}

func (ns *namespace) isNone() error {
	return chain.Errorf(chain.NetnsNotFound, chain.Facts{"netns": ns.name}, "%s is not a network namespace", ns.where())
}

// unusable says why a namespace cannot be used.
func (ns *namespace) unusable(verb string, err error) error {
	facts := chain.Facts{"netns": ns.name}
	switch {
	case verb == "enter" && errors.Is(err, unix.EPERM):
		return chain.Errorf(chain.NetnsNotFound, facts,
			"the daemon may not enter other network namespaces such as %s: it needs CAP_SYS_ADMIN, see the drop-in in deploy/systemd", ns.name)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return chain.Errorf(chain.NetnsNotFound, facts,
			"the daemon may not %s %s: %w; it may where the namespace has a name (ip netns attach NAME PID)", verb, ns.where(), err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return chain.Errorf(chain.NetnsNotFound, facts, "there is no network namespace %s", ns.where())
	}
	return fmt.Errorf("%s the network namespace %s: %w", verb, ns.name, err)
}

// where is how the namespace is called, and if that is another, at which path it is.
func (ns *namespace) where() string {
	if strings.HasPrefix(ns.name, "/") {
		return ns.name
	}
	return fmt.Sprintf("%s (%s/%s)", ns.name, runNetns, ns.name)
}
