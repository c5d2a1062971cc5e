// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// in runs f in the network namespace of the device: the kernel looks an interface up in that of the caller.
func (s *Staged) in(f func() error) error {
	if s.plan.In == nil {
		return f()
	}
	return s.plan.In(f)
}

// Somebody may have removed the pin of the device's link just now, and the kernel takes its program off a moment later, which
// it tells nobody.
const (
	lingers   = 200 * time.Millisecond
	lookAgain = 10 * time.Millisecond
)

// attachSoon is attach that waits for a link of the device that is going.
func (s *Staged) attachSoon(mode chain.Mode) (held xdpLink, err error) {
	for deadline := time.Now().Add(lingers); ; time.Sleep(lookAgain) {
		held, err = s.attach(mode)
		if !errors.Is(err, ErrBusy) || !s.plan.Lingers || time.Now().After(deadline) {
			return held, err
		}
	}
}

// attach puts the transparent program on the interface, natively unless generic is asked for, and with auto
// generically where the driver refuses for good.
func (s *Staged) attach(mode chain.Mode) (xdpLink, error) {
	if mode != chain.Generic {
		held, err := s.attachAs(s.old, chain.Native)
		if err == nil {
			s.Actual = chain.Native
			return held, nil
		}
		if mode == chain.Native || transient(err) {
			return nil, attachError(chain.Native, err)
		}
		s.ModeReason = "the driver refuses native mode: " + err.Error()
	}
	held, err := s.attachAs(s.old, chain.Generic)
	if err != nil {
		return nil, attachError(chain.Generic, err)
	}
	s.Actual = chain.Generic
	return held, nil
}

// transient tells whether an attempt to attach failed for a reason that says nothing of what the driver can do: it may be well
// the next time. ENOMEM is none of them: it is what drivers also say that have too few queues.
func transient(err error) bool {
	return slices.ContainsFunc([]unix.Errno{
		unix.EBUSY, unix.EEXIST, unix.ENODEV, unix.EPERM, unix.EACCES, unix.EAGAIN, unix.EINTR, unix.EIO, unix.ENETDOWN, unix.ETIMEDOUT,
	}, func(passes unix.Errno) bool { return errors.Is(err, passes) })
}

// attachAs puts a program on the interface, natively or generically. The caller closes the link. The error is ENODEV
// where the kernel says EINVAL because there is no such interface.
func (s *Staged) attachAs(prog *ebpf.Program, mode chain.Mode) (held xdpLink, err error) {
	options := link.XDPOptions{Program: prog, Interface: s.device.Ifindex, Flags: link.XDPDriverMode}
	if mode == chain.Generic {
		options.Flags = link.XDPGenericMode
	}
	err = s.in(func() error {
		held, err = asXDP(link.AttachXDP(options))
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		if _, gone := net.InterfaceByIndex(s.device.Ifindex); gone != nil {
			return fmt.Errorf("%w: %v", unix.ENODEV, gone)
		}
		return err
	})
	return held, err
}

func attachError(mode chain.Mode, err error) error {
	facts := chain.Facts{"mode": string(mode), "error": err.Error()}
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %v", ErrBusy, err)
	case errors.Is(err, unix.ENODEV):
		return chain.Errorf(chain.InterfaceNotFound, nil, "attach to the interface: %w", err)
	case transient(err):
		return refused(chain.Kernel, nil, "attach to the interface", err)
	case errors.Is(err, unix.ERANGE):
		return chain.Errorf(chain.ModeUnsupported, facts,
			"attach in %s mode: %w (its MTU is too large for a program without frags: lower the MTU, or build every member with SEC(\"xdp.frags\"), or take generic mode)", mode, err)
	}
	return chain.Errorf(chain.ModeUnsupported, facts, "attach in %s mode: %w (the driver refuses it; try mode auto or generic)", mode, err)
}
