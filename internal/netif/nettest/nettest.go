// SPDX-License-Identifier: Apache-2.0

// Package nettest gives tests a network namespace of their own with veth pairs in it, and sends and counts frames there.
//
// A test needs root; without it New fails the test. A typical one:
//
//	ns := nettest.New(t)                       // a namespace with the pair Dev and Peer, both up
//	nettest.RunIn(ns, func() { attach(nettest.Dev) })
//	got := ns.Receiver(t, nettest.Dev, nettest.EtherType)
//	ns.Sender(t, nettest.Peer).Send(nettest.Frame(64), 10)
//	got.Wait(10)                               // what arrives at Dev was sent by Peer
//
// Named makes one more, with a name in /run/netns, that is joined to the first.
//
// It imports netlink for the pairs, and x/sys/unix for namespaces and packet sockets.
package nettest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The pair that New makes: programs go on Dev, and frames that Peer sends arrive there.
const (
	Dev  = "xdev0"
	Peer = "xpeer0"
)

// NS is a network namespace. It ends with the test that made it.
type NS struct {
	file  *os.File // closed once it is dropped
	inode string   // as /proc/*/ns/net shows it
	name  string   // in /run/netns; "": it has none
}

// New makes a namespace with lo and the pair Dev and Peer, all up, and without IPv6, so that no frame appears
// that the test did not send. When the test ends, the namespace goes, and the test fails if an XDP program is
// still attached in it or a process or thread still lives in it.
func New(t testing.TB) *NS {
	t.Helper()
	ns := bare(t)
	ns.AddPair(t, Dev, Peer)
	return ns
}

// bare makes a namespace with lo alone, which is up.
func bare(t testing.TB) *NS {
	t.Helper()
	ns, err := create()
	if err != nil {
		t.Fatalf("make a network namespace (tests need root): %v", err)
	}
	t.Cleanup(func() { ns.end(t) })
	RunIn(ns, func() {
		if err := quiet(); err != nil {
			t.Fatalf("set up the namespace: %v", err)
		}
	})
	return ns
}

// RunIn calls f on the calling goroutine with its thread inside ns, and brings the thread back also when f
// panics or ends the test. Processes that f starts live in ns; goroutines that f starts do not.
func RunIn(ns *NS, f func()) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		panic(fmt.Sprintf("open the thread's namespace: %v", err))
	}
	defer home.Close()
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(fmt.Sprintf("enter a test's namespace: %v", err))
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("come back from a test's namespace: %v", err))
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// Path names the namespace for as long as the test's process lives, such as for nsenter --net=PATH.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// AddPair adds a veth pair, both ends up and ready to send, with an MTU of 1500. It goes with the namespace.
func (n *NS) AddPair(t testing.TB, dev, peer string) {
	t.Helper()
	n.Join(t, dev, n, peer)
}

// Delete removes an interface and, of a veth pair, the other end with it.
func (n *NS) Delete(t testing.TB, name string) {
	t.Helper()
	n.change(t, name, netlink.LinkDel)
}

// Rename gives an interface of a pair another name. It is ready to send afterwards, as is the other end if that is in the
// same namespace; if it is not, see Settle.
func (n *NS) Rename(t testing.TB, from, to string) {
	t.Helper()
	n.change(t, from, func(l netlink.Link) error {
		err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, to), netlink.LinkSetUp(l))
		if err != nil {
			return err
		}
		if l.Attrs().NetNsID >= 0 {
			return settled(to)
		}
		peer, err := netlink.LinkByIndex(l.Attrs().ParentIndex)
		if err != nil {
			return fmt.Errorf("find the other end: %w", err)
		}
		return settled(to, peer.Attrs().Name)
	})
}

// SetMTU sets the MTU of an interface.
func (n *NS) SetMTU(t testing.TB, name string, mtu int) {
	t.Helper()
	n.change(t, name, func(l netlink.Link) error { return netlink.LinkSetMTU(l, mtu) })
}

// Index returns the index of an interface.
func (n *NS) Index(t testing.TB, name string) int {
	t.Helper()
	var index int
	n.change(t, name, func(l netlink.Link) error { index = l.Attrs().Index; return nil })
	return index
}

func (n *NS) change(t testing.TB, name string, f func(netlink.Link) error) {
	t.Helper()
	RunIn(n, func() {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = f(link)
		}
		if err != nil {
			t.Fatalf("interface %s: %v", name, err)
		}
	})
}

func create() (ns *NS, err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("unshare: %w", err)
	}
	defer func() {
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			panic(fmt.Sprintf("come back from a new namespace: %v", back))
		}
		runtime.UnlockOSThread()
	}()
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	inode, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &NS{file: file, inode: inode}, nil
}

// quiet turns IPv6 off where the kernel has it, for the interfaces to come, and sets lo up.
func quiet() error {
	for _, scope := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return up("lo")
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// settled waits until the interfaces are operational. The kernel comes to that some time after they are up, and what
// is sent before is dropped without a word.
func settled(names ...string) error {
	for deadline := time.Now().Add(Patience); len(names) > 0; {
		link, err := netlink.LinkByName(names[0])
		switch {
		case err != nil:
			return fmt.Errorf("find %s: %w", names[0], err)
		case link.Attrs().OperState == netlink.OperUp:
			names = names[1:]
		case time.Now().After(deadline):
			return fmt.Errorf("%s is up, and %v after %v", names[0], link.Attrs().OperState, Patience)
		default:
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

func (n *NS) end(t testing.TB) {
	if n.dropped() {
		return
	}
	defer n.file.Close()
	left := n.leftovers()
	// The kernel ends a link some time after its last pin, and tells nobody.
	for deadline := time.Now().Add(Patience); len(left) > 0 && time.Now().Before(deadline); left = n.leftovers() {
		time.Sleep(5 * time.Millisecond)
	}
	for _, l := range left {
		t.Errorf("the test left behind in its namespace: %s", l)
	}
}

func (n *NS) leftovers() []string { return append(n.programs(), n.inhabitants()...) }

// programs names the XDP programs that are attached in the namespace.
func (n *NS) programs() (found []string) {
	RunIn(n, func() {
		links, err := netlink.LinkList()
		if err != nil {
			found = append(found, fmt.Sprintf("unknown, as its interfaces cannot be listed: %v", err))
		}
		for _, l := range links {
			if x := l.Attrs().Xdp; x != nil && x.Attached {
				found = append(found, fmt.Sprintf("XDP program %d on %s", x.ProgId, l.Attrs().Name))
			}
		}
	})
	return found
}

// inhabitants names the threads that live in the namespace. Who ends meanwhile is none.
func (n *NS) inhabitants() (found []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net") // the pattern is well-formed
	for _, p := range paths {
		inode, err := os.Readlink(p)
		if err != nil || inode != n.inode {
			continue
		}
		task := strings.TrimSuffix(p, "/ns/net")
		comm, err := os.ReadFile(task + "/comm")
		if err != nil {
			continue
		}
		found = append(found, fmt.Sprintf("thread %s (%s)", strings.TrimPrefix(task, "/proc/"), strings.TrimSpace(string(comm))))
	}
	return found
}
