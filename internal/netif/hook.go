// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// The values of IFLA_XDP_FLAGS, linux/if_link.h.
const (
	flagGeneric = 1 << 1
	flagNative  = 1 << 2
	flagReplace = 1 << 4 // only the program that is expected (Linux 5.7)
)

// noProgram stands for a program's descriptor.
const noProgram = -1

// Hook attaches a program, by its descriptor, to an interface without a link. The error wraps EEXIST if the interface has
// a program, EBUSY if that has a link.
func Hook(netns string, index, program int, mode chain.Mode) error {
	if err := exchange(netns, index, noProgram, program, mode); err != nil {
		return fmt.Errorf("attach a program to interface %d: %w", index, err)
	}
	return nil
}

// Unhook detaches a program, by its descriptor, from an interface that it is attached to without a link. The error wraps
// EEXIST if the interface has another program or none, EBUSY if the program there has a link.
func Unhook(netns string, index, program int, mode chain.Mode) error {
	if err := exchange(netns, index, program, noProgram, mode); err != nil {
		return fmt.Errorf("detach a program from interface %d: %w", index, err)
	}
	return nil
}

// exchange replaces a program by another.
func exchange(netns string, index, before, after int, mode chain.Mode) error {
	flags := uint32(flagReplace)
	switch mode {
	case chain.Native:
		flags |= flagNative
	case chain.Generic:
		flags |= flagGeneric
	}
	native := binary.NativeEndian
	attr := appendAttr(nil, unix.IFLA_XDP_FD, native.AppendUint32(nil, uint32(after)))
	attr = appendAttr(attr, unix.IFLA_XDP_EXPECTED_FD, native.AppendUint32(nil, uint32(before)))
	attr = appendAttr(attr, unix.IFLA_XDP_FLAGS, native.AppendUint32(nil, flags))
	c, err := dial(netns)
	if err != nil {
		return err
	}
	defer c.close()
	// Traffic changes here.
	if err := c.ask(unix.RTM_SETLINK, unix.NLM_F_ACK, index, appendAttr(nil, unix.IFLA_XDP|unix.NLA_F_NESTED, attr)); err != nil {
		return err
	}
	var none []Interface
	_, err = c.receive(&none)
	return err
}
