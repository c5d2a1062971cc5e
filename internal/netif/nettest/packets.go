// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// EtherType marks the frames that Frame makes: one that IEEE keeps for local experiments.
const EtherType = 0x88B5

// Patience is how long the package waits for what should come, also on a host that has little time for the test.
const Patience = time.Minute

// Frame makes an Ethernet frame to everybody of size bytes (at least 14) with EtherType and zeros.
func Frame(size int) []byte {
	f := make([]byte, max(size, 14))
	copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(f[12:], EtherType)
	return f
}

// UDP makes an Ethernet frame to everybody with an IPv4 header and a UDP header without checksum.
func UDP(src, dst netip.AddrPort, payload []byte) []byte {
	f := Frame(14 + 20 + 8 + len(payload))
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip, udp := f[14:34], f[34:42]
	copy(ip, []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP})
	binary.BigEndian.PutUint16(ip[2:], uint16(len(f)-14))
	copy(ip[12:], src.Addr().AsSlice())
	copy(ip[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	binary.BigEndian.PutUint16(udp, src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	copy(f[42:], payload)
	return f
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Sender sends raw frames out of one interface. It is closed when the test ends.
type Sender struct {
	t    testing.TB
	fd   int
	Sent uint64 // frames that the kernel took, by all calls
}

// Sender opens a sender on an interface of the namespace.
func (n *NS) Sender(t testing.TB, iface string) *Sender {
	t.Helper()
	s := &Sender{t: t, fd: n.packetSocket(t, iface, 0)}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// Send sends a frame count times and fails the test if the kernel does not take one. It does not wait for the
// other end: a veth whose ring (256 frames) is full drops; use Flow for more than 128 frames.
func (s *Sender) Send(frame []byte, count int) {
	s.t.Helper()
	for range count {
		if err := s.one(frame); err != nil {
			s.t.Fatalf("send frame %d: %v", s.Sent+1, err)
		}
	}
}

func (s *Sender) one(frame []byte) error {
	for {
		_, err := unix.Write(s.fd, frame)
		if err == unix.EINTR {
			continue
		}
		if err == nil {
			s.Sent++
		}
		return err
	}
}

// Flow sends a frame over and over until ctx ends, with at most 64 on their way at a time, and waits for the
// last to arrive at r. It returns how many it sent; an error says how many of them were lost.
func (s *Sender) Flow(ctx context.Context, frame []byte, r *Receiver) (sent uint64, err error) {
	const window = 64
	before := r.Count()
	for ctx.Err() == nil {
		if err := s.one(frame); err != nil {
			return sent, fmt.Errorf("send frame %d: %w", sent+1, err)
		}
		if sent++; sent > window && !r.reach(before+sent-window) {
			break
		}
	}
	if !r.reach(before + sent) {
		return sent, fmt.Errorf("%d of %d frames lost", before+sent-r.Count(), sent)
	}
	return sent, nil
}

// Receiver counts the frames of one EtherType that arrive at an interface, behind its XDP programs. While it is open its
// namespace lives. It is closed when the test ends, if not before.
type Receiver struct {
	t      testing.TB
	fd     int
	count  atomic.Uint64
	mu     sync.Mutex // protects last
	last   []byte
	arrive chan struct{}
	done   chan struct{}
	ended  atomic.Bool
	closed sync.Once
}

// Receiver opens a receiver on an interface of the namespace: EtherType for frames of Frame, 0x0800 for those
// of UDP.
func (n *NS) Receiver(t testing.TB, iface string, etherType uint16) *Receiver {
	t.Helper()
	r := &Receiver{t: t, fd: n.packetSocket(t, iface, etherType), arrive: make(chan struct{}, 1), done: make(chan struct{})}
	// The reader looks up at this pace whether it is to end.
	if err := unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
		t.Fatalf("set the receive timeout: %v", err)
	}
	go r.read()
	t.Cleanup(r.Close)
	return r
}

// Close ends the receiver; Count stays as it is.
func (r *Receiver) Close() {
	r.closed.Do(func() {
		r.ended.Store(true)
		<-r.done
		unix.Close(r.fd)
	})
}

func (r *Receiver) read() {
	defer close(r.done)
	buf := make([]byte, 1<<16)
	for !r.ended.Load() {
		size, err := unix.Read(r.fd, buf)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			r.t.Errorf("receive frames: %v", err)
			return
		}
		r.mu.Lock()
		r.last = append(r.last[:0], buf[:size]...)
		r.mu.Unlock()
		r.count.Add(1)
		select {
		case r.arrive <- struct{}{}:
		default:
		}
	}
}

// Count returns how many frames arrived.
func (r *Receiver) Count() uint64 { return r.count.Load() }

// Last returns the frame that arrived last; nil before the first.
func (r *Receiver) Last() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.last...)
}

// Wait waits until at least n frames arrived, and fails the test after Patience. It does not notice frames that
// arrive too many: ask Count after something that comes behind them.
func (r *Receiver) Wait(n uint64) {
	r.t.Helper()
	if !r.reach(n) {
		r.t.Fatalf("%d frames arrived, want %d", r.Count(), n)
	}
}

// reach waits until n frames arrived; false when none came for Patience. One goroutine at a time may call it.
func (r *Receiver) reach(n uint64) bool {
	if r.Count() >= n {
		return true
	}
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	for r.Count() < n {
		select {
		case <-r.arrive:
			timer.Reset(Patience)
		case <-timer.C:
			return r.Count() >= n
		}
	}
	return true
}

// packetSocket opens a packet socket bound to an interface; with protocol 0 it receives nothing.
func (n *NS) packetSocket(t testing.TB, iface string, protocol uint16) (fd int) {
	t.Helper()
	index := n.Index(t, iface)
	RunIn(n, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatalf("open a packet socket: %v", err)
		}
		wire := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
		if err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: wire, Ifindex: index}); err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		}
		if err != nil {
			unix.Close(fd)
			t.Fatalf("set up a packet socket on %s: %v", iface, err)
		}
	})
	return fd
}
