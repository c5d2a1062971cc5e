// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

const (
	// answerSize is more than the kernel puts into one answer: 32 KiB.
	answerSize = 64 << 10
	// dumpTries is how often a dump is begun again because interfaces came or went meanwhile.
	dumpTries = 100
	// skipStats leaves out counters, which are most of an answer (RTEXT_FILTER_SKIP_STATS).
	skipStats = 1 << 3
)

// The values of IFLA_XDP_ATTACHED, linux/if_link.h, but for several at once.
const (
	attachedNone = iota
	attachedNative
	attachedGeneric
	attachedOffload
)

// errInterrupted is returned by a dump in which interfaces may be missing, or be twice.
var errInterrupted = errors.New("interfaces came and went all the time")

// conn is a socket to the kernel's interfaces of one namespace. It is not for concurrent use.
type conn struct {
	fd     int
	cookie uint64
	seq    uint32
	buf    []byte
}

// dial opens a socket in a namespace, which lives at least until it is closed.
func dial(netns string) (c *conn, err error) {
	err = Do(netns, func() (err error) {
		c, err = dialHere()
		return err
	})
	return c, err
}

// dialHere is dial for the namespace of the calling thread.
func dialHere() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	cookie, _, err := cookieOf(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &conn{fd: fd, cookie: cookie, buf: make([]byte, answerSize)}, nil
}

func (c *conn) close() { _ = unix.Close(c.fd) } // a socket has nothing left to write

// get asks for an interface by index, or if that is 0 by name. Without one the error is ENODEV.
func (c *conn) get(index int, name string) (Interface, error) {
	if err := c.askFor(0, index, name); err != nil {
		return Interface{}, err
	}
	var all []Interface
	if _, err := c.receive(&all); err != nil {
		return Interface{}, err
	}
	if len(all) != 1 {
		return Interface{}, fmt.Errorf("the kernel answers with %d interfaces", len(all))
	}
	return all[0], nil
}

// dump asks for all interfaces, again and again until none came or went meanwhile.
func (c *conn) dump() (all []Interface, err error) {
	for range dumpTries {
		if all, err = c.dumpOnce(all[:0]); !errors.Is(err, errInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (c *conn) dumpOnce(all []Interface) ([]Interface, error) {
	if err := c.askFor(unix.NLM_F_DUMP, 0, ""); err != nil {
		return nil, err
	}
	// All of an interrupted dump is to be read, so that the next answers are those to the next question.
	var interrupted error
	for {
		done, err := c.receive(&all)
		if errors.Is(err, errInterrupted) {
			interrupted = err
		} else if err != nil {
			return nil, err
		}
		if done {
			return all, interrupted
		}
	}
}

// askFor sends a question for one interface or, with NLM_F_DUMP, for all.
func (c *conn) askFor(flags uint16, index int, name string) error {
	attrs := appendAttr(nil, unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, skipStats))
	if name != "" {
		attrs = appendAttr(attrs, unix.IFLA_IFNAME, append([]byte(name), 0))
	}
	return c.ask(unix.RTM_GETLINK, flags, index, attrs)
}

// ask sends a message about an interface.
func (c *conn) ask(kind, flags uint16, index int, attrs []byte) error {
	c.seq++
	native := binary.NativeEndian
	b := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofIfInfomsg, 128)
	native.PutUint32(b, uint32(len(b)+len(attrs)))
	native.PutUint16(b[4:], kind)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	native.PutUint32(b[8:], c.seq)
	native.PutUint32(b[unix.NLMSG_HDRLEN+4:], uint32(index))
	b = append(b, attrs...)
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, align(len(value))-len(value))...)
}

// receive waits for a datagram and adds the interfaces in it. done means that nothing follows a dump's.
func (c *conn) receive(all *[]Interface) (done bool, err error) {
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, err
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // not from the kernel
		}
		if n > len(c.buf) {
			return false, fmt.Errorf("the kernel's answer has %d bytes, more than %d", n, len(c.buf))
		}
		return c.read(c.buf[:n], all)
	}
}

// read adds the interfaces of a datagram.
func (c *conn) read(datagram []byte, all *[]Interface) (done bool, err error) {
	ok := eachMessage(datagram, func(h header, body []byte) bool {
		if h.seq != c.seq {
			return true
		}
		switch h.kind {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			done = true
			if failed := answer(body); failed != nil {
				err = failed
			}
		case unix.RTM_NEWLINK:
			found, ok := readLink(body)
			if !ok {
				return false
			}
			found.Netns = c.cookie
			*all = append(*all, found)
		}
		if h.flags&unix.NLM_F_DUMP_INTR != 0 && err == nil {
			err = errInterrupted
		}
		return true
	})
	if !ok {
		return false, errors.New("the kernel's answer is not well-formed")
	}
	return done, err
}

// answer is the error in the message that ends an answer, nil for 0.
func answer(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

// header is what a netlink message begins with.
type header struct {
	kind, flags uint16
	seq         uint32
}

// eachMessage calls f for the messages of a datagram until it returns false. It returns false if f did, or the datagram is
// not well-formed.
func eachMessage(datagram []byte, f func(h header, body []byte) bool) bool {
	native := binary.NativeEndian
	for len(datagram) >= unix.NLMSG_HDRLEN {
		size := int(native.Uint32(datagram))
		if size < unix.NLMSG_HDRLEN || size > len(datagram) {
			return false
		}
		h := header{kind: native.Uint16(datagram[4:]), flags: native.Uint16(datagram[6:]), seq: native.Uint32(datagram[8:])}
		if !f(h, datagram[unix.NLMSG_HDRLEN:size]) {
			return false
		}
		datagram = datagram[min(align(size), len(datagram)):]
	}
	return len(datagram) == 0
}

// eachAttr calls f for the attributes in b. It returns false if they are not well-formed.
func eachAttr(b []byte, f func(kind uint16, value []byte)) bool {
	native := binary.NativeEndian
	for len(b) >= unix.SizeofRtAttr {
		size := int(native.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return false
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		f(native.Uint16(b[2:])&^flags, b[unix.SizeofRtAttr:size])
		b = b[min(align(size), len(b)):]
	}
	return len(b) == 0
}

func align(size int) int { return (size + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// readLink reads the body of a message RTM_NEWLINK or RTM_DELLINK; false if it is not well-formed.
func readLink(body []byte) (found Interface, ok bool) {
	if len(body) < unix.SizeofIfInfomsg {
		return Interface{}, false
	}
	found.Index = int(int32(binary.NativeEndian.Uint32(body[4:])))
	xdp := true
	ok = eachAttr(body[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		switch {
		case kind == unix.IFLA_IFNAME:
			name, _, _ := bytes.Cut(value, []byte{0})
			found.Name = string(name)
		case kind == unix.IFLA_MTU && len(value) >= 4:
			found.MTU = int(binary.NativeEndian.Uint32(value))
		case kind == unix.IFLA_XDP:
			found.XDP, xdp = readXDP(value)
		}
	})
	return found, ok && xdp
}

// readXDP reads the value of an attribute IFLA_XDP.
func readXDP(b []byte) (state XDPState, ok bool) {
	attached := byte(attachedNone)
	var ids [unix.IFLA_XDP_HW_PROG_ID + 1]uint32
	ok = eachAttr(b, func(kind uint16, value []byte) {
		switch {
		case kind == unix.IFLA_XDP_ATTACHED && len(value) >= 1:
			attached = value[0]
		case int(kind) < len(ids) && len(value) == 4:
			ids[kind] = binary.NativeEndian.Uint32(value)
		}
	})
	state.ID = ids[unix.IFLA_XDP_PROG_ID]
	switch attached {
	case attachedNone:
		return XDPState{}, ok
	case attachedNative:
		state.Mode = chain.Native
	case attachedGeneric:
		state.Mode = chain.Generic
	case attachedOffload:
		state.Mode = "offload"
	default:
		state.Mode = "multi"
		state.ID = max(ids[unix.IFLA_XDP_DRV_PROG_ID], ids[unix.IFLA_XDP_SKB_PROG_ID])
	}
	return state, ok
}
