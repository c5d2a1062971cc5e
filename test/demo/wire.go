// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The two ends of the cable: what leaves peer comes in at device, where the programs are.
const (
	device = "demo0"
	peer   = "demo1"
)

// patience is how long the demo waits for packets, and for the daemon.
const patience = 30 * time.Second

// wire sends packets into peer and counts those that the programs on device let through.
type wire struct {
	in, out int // packet sockets
	passed  atomic.Uint64
	quit    chan struct{}
	done    chan error
}

// lay makes the cable and begins to count. The caller closes the wire.
func lay() (_ *wire, err error) {
	for _, scope := range []string{"all", "default"} { // so that the kernel sends nothing on its own
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("turn IPv6 off: %w", err)
		}
	}
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: peer}
	pair.Name = device
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("add a veth pair: %w", err)
	}
	for _, name := range []string{device, peer} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return nil, fmt.Errorf("set %s up: %w", name, err)
		}
	}
	w := &wire{quit: make(chan struct{}), done: make(chan error, 1)}
	if w.in, err = packetSocket(peer, 0); err != nil {
		return nil, err
	}
	if w.out, err = packetSocket(device, unix.ETH_P_IP); err != nil {
		return nil, errors.Join(err, unix.Close(w.in))
	}
	go w.count()
	return w, nil
}

func packetSocket(iface string, protocol uint16) (int, error) {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return -1, fmt.Errorf("find %s: %w", iface, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a packet socket: %w", err)
	}
	wire := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: wire, Ifindex: l.Attrs().Index}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		// The reader looks up at this pace whether it is to end.
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("set up a packet socket on %s: %w", iface, err), unix.Close(fd))
	}
	return fd, nil
}

func (w *wire) count() {
	buf := make([]byte, 2048)
	for {
		select {
		case <-w.quit:
			w.done <- nil
			return
		default:
		}
		_, err := unix.Read(w.out, buf)
		switch {
		case err == nil:
			w.passed.Add(1)
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			w.done <- fmt.Errorf("receive packets: %w", err)
			return
		}
	}
}

func (w *wire) close() error {
	close(w.quit)
	return errors.Join(<-w.done, unix.Close(w.in), unix.Close(w.out))
}

// send sends n UDP packets to a port, and waits until those that pass have passed; with pass, all must.
func (w *wire) send(n uint64, port uint16, pass bool) error {
	frame := udp(port)
	for sent := uint64(0); sent < n; {
		burst := min(n-sent, 64) // a veth holds 256
		before := w.passed.Load()
		for range burst {
			if _, err := unix.Write(w.in, frame); err != nil {
				return fmt.Errorf("send a packet: %w", err)
			}
		}
		sent += burst
		if !pass {
			continue
		}
		for deadline := time.Now().Add(patience); w.passed.Load() < before+burst; time.Sleep(20 * time.Microsecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("of %d packets to port %d only %d arrived", burst, port, w.passed.Load()-before)
			}
		}
	}
	return nil
}

// stream sends packets to a port without a break until it is told to stop, and counts them. Each must arrive.
type stream struct {
	sent atomic.Uint64
	quit chan struct{}
	done chan error
}

func (w *wire) stream(port uint16) *stream {
	s := &stream{quit: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		for {
			select {
			case <-s.quit:
				s.done <- nil
				return
			default:
			}
			if err := w.send(32, port, true); err != nil {
				s.done <- err
				return
			}
			s.sent.Add(32)
		}
	}()
	return s
}

// more waits until n more packets went through.
func (s *stream) more(n uint64) error {
	want := s.sent.Load() + n
	for deadline := time.Now().Add(patience); s.sent.Load() < want; time.Sleep(time.Millisecond) {
		select {
		case err := <-s.done:
			s.done <- err
			return fmt.Errorf("the stream of packets broke: %w", err)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the stream of packets is too slow: %d, want %d", s.sent.Load(), want)
		}
	}
	return nil
}

// stop ends the stream. It returns how many packets were sent, all of which arrived unless there is an error.
func (s *stream) stop() (uint64, error) {
	close(s.quit)
	err := <-s.done
	return s.sent.Load(), err
}

// udp makes an Ethernet frame with a UDP packet from 192.0.2.1 to that port of 192.0.2.2.
func udp(port uint16) []byte {
	f := make([]byte, 60)
	copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0})
	copy(f[14:], []byte{0x45, 0, 0, 46, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2})
	var sum uint32
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[i:]))
	}
	binary.BigEndian.PutUint16(f[24:], ^uint16(sum>>16+sum&0xffff))
	binary.BigEndian.PutUint16(f[34:], 4242)
	binary.BigEndian.PutUint16(f[36:], port)
	binary.BigEndian.PutUint16(f[38:], 26)
	return f
}
