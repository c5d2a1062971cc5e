// SPDX-License-Identifier: Apache-2.0

// Package netif asks the kernel about network interfaces and the XDP programs on them, in the network namespace
// of the calling thread.
//
// It imports netlink (and is the only package that does, with its test helper nettest), x/sys/unix for the
// namespace's cookie, and chain for the errors and modes.
package netif

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// Interface is a network interface.
type Interface struct {
	Name  string
	Index int
	MTU   int
}

// XDPState tells of the XDP program on an interface.
type XDPState struct {
	ID   uint32     // the kernel's id of the program; 0 in mode "multi"
	Mode chain.Mode // chain.Native, chain.Generic, "offload" or "multi" (offload and another)
}

// ByName returns the interface of that name. Errors are chain.InterfaceNotFound, also when the name is an
// alternative one (an interface has one name here, so that it cannot have two chains), and
// chain.InvalidArgument for what cannot be a name.
func ByName(name string) (Interface, error) {
	if err := checkName(name); err != nil {
		return Interface{}, err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return Interface{}, notFound(err, name)
	}
	found := describe(link)
	if found.Name != name {
		return Interface{}, chain.Errorf(chain.InterfaceNotFound, chain.Facts{"interface": name},
			"there is no interface %s: it is an alternative name of %s, use that", name, found.Name)
	}
	return found, nil
}

// ByIndex returns the interface of that index. Without one the error is chain.InterfaceNotFound.
func ByIndex(index int) (Interface, error) {
	link, err := byIndex(index)
	if err != nil {
		return Interface{}, err
	}
	return describe(link), nil
}

// XDP tells which XDP program is on an interface, whoever put it there. Without such an interface the error is
// chain.InterfaceNotFound.
func XDP(index int) (state XDPState, attached bool, err error) {
	link, err := byIndex(index)
	if err != nil {
		return XDPState{}, false, err
	}
	xdp := link.Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return XDPState{}, false, nil
	}
	return XDPState{ID: xdp.ProgId, Mode: mode(xdp.AttachMode)}, true, nil
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

func byIndex(index int) (netlink.Link, error) {
	// The kernel takes index 0 for a request by name.
	if index <= 0 {
		return nil, chain.Errorf(chain.InterfaceNotFound, chain.Facts{"interface": fmt.Sprint(index)},
			"there is no interface with the index %d", index)
	}
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, notFound(err, fmt.Sprint(index))
	}
	return link, nil
}

func notFound(err error, which string) error {
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) || errors.Is(err, unix.ENODEV) {
		return chain.Errorf(chain.InterfaceNotFound, chain.Facts{"interface": which},
			"there is no interface %s in the daemon's network namespace", which)
	}
	return fmt.Errorf("look up interface %s: %w", which, err)
}

// checkName knows the kernel's rule (dev_valid_name in net/core/dev.c).
func checkName(name string) error {
	bad := func(why string) error {
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "interface", "interface": name},
			"%q cannot be the name of an interface: %s", name, why)
	}
	switch {
	case name == "":
		return bad("it is empty")
	case len(name) >= unix.IFNAMSIZ:
		return bad(fmt.Sprintf("it has more than %d bytes", unix.IFNAMSIZ-1))
	case name == "." || name == "..":
		return bad("the kernel does not allow it")
	case strings.ContainsAny(name, "/: \t\n\v\f\r\x00"), strings.Contains(name, "\xa0"):
		return bad("it has a slash, a colon, white space or a zero byte")
	}
	return nil
}

func describe(link netlink.Link) Interface {
	a := link.Attrs()
	return Interface{Name: a.Name, Index: a.Index, MTU: a.MTU}
}

func mode(attached uint32) chain.Mode {
	switch attached {
	case nl.XDP_ATTACHED_DRV:
		return chain.Native
	case nl.XDP_ATTACHED_SKB:
		return chain.Generic
	case nl.XDP_ATTACHED_HW:
		return "offload"
	default:
		return "multi"
	}
}
