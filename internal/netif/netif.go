// SPDX-License-Identifier: Apache-2.0

// Package netif asks the kernel about network interfaces and the XDP programs on them, in any network namespace.
//
// A namespace is the part of an interface's reference before the colon (chain.ParseInterface): a name in /run/netns, an
// absolute path, or "", which is the namespace of the calling thread and is called the daemon's own in errors. Every call
// opens the namespace anew and closes it: an open one cannot die. It fails with chain.NetnsNotFound where there is no such
// namespace, or it may not be entered (which needs CAP_SYS_ADMIN).
//
// It imports x/sys/unix for netlink, whose few messages it reads itself, and for namespaces, and chain for the errors,
// references and modes.
package netif

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// Interface is a network interface.
type Interface struct {
	Netns uint64 // which namespace it is in, see NetnsCookie
	Name  string // without the namespace
	Index int
	MTU   int
	XDP   XDPState
}

// XDPState tells of the XDP program on an interface.
type XDPState struct {
	ID   uint32     // the kernel's id of the program, in mode "multi" of the one that is not in the device; 0: there is none
	Mode chain.Mode // chain.Native, chain.Generic, "offload" or "multi" (offload and another); "": there is none
}

// ByName returns the interface with that reference. Errors are chain.InterfaceNotFound, also when the name is an
// alternative one (an interface has one name here, so that it cannot have two chains), and chain.InvalidArgument for what
// cannot be a reference, and for patterns.
func ByName(ref string) (Interface, error) {
	netns, name, err := chain.ParseInterface(ref)
	if err != nil {
		return Interface{}, err
	}
	if chain.IsPattern(ref) {
		return Interface{}, chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "interface", "interface": ref},
			"%q is a pattern, not the name of one interface", ref)
	}
	found, err := get(netns, 0, name)
	if errors.Is(err, unix.ENODEV) {
		return Interface{}, notFound(ref, "there is no interface "+name, netns)
	}
	if err != nil {
		return Interface{}, lookedUp(ref, err)
	}
	if found.Name != name {
		return Interface{}, chain.Errorf(chain.InterfaceNotFound, chain.Facts{"interface": ref},
			"there is no interface %s: it is an alternative name of %s, use that", name, found.Name)
	}
	return found, nil
}

// ByIndex returns the interface of that index in a namespace. Without one the error is chain.InterfaceNotFound.
func ByIndex(netns string, index int) (Interface, error) {
	ref := fmt.Sprint(index)
	none := "there is no interface with the index " + ref
	// The kernel takes index 0 for a request by name.
	if index <= 0 || index > math.MaxInt32 {
		return Interface{}, notFound(ref, none, netns)
	}
	found, err := get(netns, index, "")
	if errors.Is(err, unix.ENODEV) {
		return Interface{}, notFound(ref, none, netns)
	}
	if err != nil {
		return Interface{}, lookedUp(ref, err)
	}
	return found, nil
}

// XDP tells which XDP program is on an interface, whoever put it there. Without such an interface the error is
// chain.InterfaceNotFound.
func XDP(netns string, index int) (state XDPState, attached bool, err error) {
	found, err := ByIndex(netns, index)
	return found.XDP, found.XDP != XDPState{}, err
}

// List returns all interfaces of a namespace as they are at one moment, in the kernel's order.
func List(netns string) (all []Interface, err error) {
	c, err := dial(netns)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if all, err = c.dump(); err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return all, nil
}

// get asks for an interface by index, or if that is 0 by name. Without one the error is ENODEV.
func get(netns string, index int, name string) (Interface, error) {
	c, err := dial(netns)
	if err != nil {
		return Interface{}, err
	}
	defer c.close()
	return c.get(index, name)
}

func notFound(ref, none, netns string) error {
	where := "the daemon's network namespace"
	if netns != "" {
		where = "the network namespace " + netns
	}
	return chain.Errorf(chain.InterfaceNotFound, chain.Facts{"interface": ref}, "%s in %s", none, where)
}

// lookedUp says what an error is about, but for those that say it themselves.
func lookedUp(ref string, err error) error {
	var refusal *chain.Error
	if errors.As(err, &refusal) {
		return err
	}
	return fmt.Errorf("look up interface %s: %w", ref, err)
}
