// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// runNetns is where iproute2 keeps named namespaces.
const runNetns = "/run/netns"

// Named makes one more namespace, like New but with no interface but lo, and gives it a name in /run/netns, which begins
// with name and is this process's own: see Name.
func Named(t testing.TB, name string) *NS {
	t.Helper()
	ns := bare(t)
	ns.SetName(t, fmt.Sprintf("%s-%d", name, os.Getpid()))
	return ns
}

// SetName gives a namespace that has no name this one in /run/netns, for example one that another had.
func (n *NS) SetName(t testing.TB, name string) {
	t.Helper()
	if n.name != "" {
		t.Fatalf("namespace %s is to be named %s too", n.name, name)
	}
	path := filepath.Join(runNetns, name)
	if err := os.MkdirAll(runNetns, 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0)
	if err != nil {
		t.Fatalf("name a namespace: %v", err)
	}
	file.Close()
	t.Cleanup(func() { n.unname(t) })
	n.name = name
	if err := unix.Mount(n.Path(), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("name a namespace %s: %v", path, err)
	}
}

// Name returns the name in /run/netns; "" without one.
func (n *NS) Name() string { return n.name }

// Drop takes the name of a namespace from it, and the test's own hold of it: it dies, with its interfaces, unless somebody
// else holds it. It cannot be used afterwards.
func (n *NS) Drop(t testing.TB) {
	t.Helper()
	n.unname(t)
	if err := n.file.Close(); err != nil {
		t.Errorf("let go of a namespace: %v", err)
	}
}

func (n *NS) dropped() bool { return int(n.file.Fd()) == -1 }

func (n *NS) unname(t testing.TB) {
	t.Helper()
	if n.name == "" {
		return
	}
	path := filepath.Join(runNetns, n.name)
	n.name = ""
	// It is not mounted if SetName failed.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
		t.Errorf("unmount %s: %v", path, err)
	}
	if err := os.Remove(path); err != nil {
		t.Errorf("take a namespace's name: %v", err)
	}
}

// Join adds a veth pair with dev in the namespace and peer in another, both ends up and ready to send, with an MTU of 1500.
// It goes with either of them.
func (n *NS) Join(t testing.TB, dev string, other *NS, peer string) {
	t.Helper()
	RunIn(n, func() {
		pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: peer}
		pair.Name = dev
		if n != other {
			pair.PeerNamespace = netlink.NsFd(other.file.Fd())
		}
		if err := netlink.LinkAdd(pair); err != nil {
			t.Fatalf("add veth pair %s, %s: %v", dev, peer, err)
		}
		if err := up(dev); err != nil {
			t.Fatal(err)
		}
	})
	RunIn(other, func() {
		if err := up(peer); err != nil {
			t.Fatal(err)
		}
	})
	n.Settle(t, dev)
	other.Settle(t, peer)
}

// Move moves an interface to another namespace, and sets it up there. Its index may change.
func (n *NS) Move(t testing.TB, name string, to *NS) {
	t.Helper()
	n.change(t, name, func(l netlink.Link) error { return netlink.LinkSetNsFd(l, int(to.file.Fd())) })
	RunIn(to, func() {
		if err := up(name); err != nil {
			t.Fatal(err)
		}
	})
}

// Settle waits until interfaces that are up, as are their other ends, are ready to send.
func (n *NS) Settle(t testing.TB, names ...string) {
	t.Helper()
	RunIn(n, func() {
		if err := settled(names...); err != nil {
			t.Fatal(err)
		}
	})
}
