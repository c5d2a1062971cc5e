// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// Under traffic, revisions are swapped swapsMost times, or on a slow machine until swapsTime is over, but
// not less than swapsLeast times.
const (
	swapsMost  = 500
	swapsLeast = 100
	swapsTime  = 45 * time.Second
)

// stream sends packets with sequence numbers and reads them behind the chain, with few on their way at a time, so
// that each that is missing was lost in the chain. Their order may change: each CPU that sends has its own queue.
type stream struct {
	in, out int // packet sockets
	stop    atomic.Bool
	valid   [][]byte // the trails of the revisions
	counts  []uint64 // of packets, by trail
	arrived atomic.Uint64
	sent    uint64
	err     error
	done    chan struct{}
}

const sequenceAt = codesAt + 64*4 // behind what the members use

// startStream begins to send, until end is called. The stream has its own sockets: it reads every single packet.
func (b *bench) startStream(valid [][]byte) *stream {
	b.Helper()
	s := &stream{valid: valid, counts: make([]uint64, len(valid)), done: make(chan struct{})}
	open := func(iface string, protocol uint16) int {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		b.check(err)
		b.Cleanup(func() { unix.Close(fd) })
		wire := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
		b.check(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: wire, Ifindex: b.ns.Index(b, iface)}))
		timeout := unix.NsecToTimeval(int64(nettest.Patience))
		b.check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
		return fd
	}
	nettest.RunIn(b.ns, func() { s.out, s.in = open(nettest.Peer, 0), open(nettest.Dev, nettest.EtherType) })
	go func() {
		defer close(s.done)
		s.err = s.run()
	}()
	return s
}

func (s *stream) run() error {
	const window = 32
	f, buf := frame(), make([]byte, 1<<16)
	due := map[uint64]bool{} // numbers that are on their way
	for received := uint64(0); ; received++ {
		for ; s.sent < received+window && !s.stop.Load(); s.sent++ {
			binary.NativeEndian.PutUint64(f[sequenceAt:], s.sent)
			if _, err := unix.Write(s.out, f); err != nil {
				return fmt.Errorf("send packet %d: %w", s.sent, err)
			}
			due[s.sent] = true
		}
		if received == s.sent {
			return nil
		}
		n, err := unix.Read(s.in, buf)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Read(s.in, buf)
		}
		if err != nil {
			return fmt.Errorf("of %d packets these are lost: %v: %w", s.sent, slices.Sorted(maps.Keys(due)), err)
		}
		if n != frameSize {
			return fmt.Errorf("packet %d of those that came has %d bytes", received, n)
		}
		number := binary.NativeEndian.Uint64(buf[sequenceAt:])
		if !due[number] {
			return fmt.Errorf("packet %d came twice", number)
		}
		delete(due, number)
		i := slices.IndexFunc(s.valid, func(marks []byte) bool { return slices.Equal(marks, trail(buf[:n])) })
		if i < 0 {
			return fmt.Errorf("packet %d has marks %v, which no revision makes", number, trail(buf[:n]))
		}
		s.counts[i]++
		s.arrived.Add(1)
	}
}

// flows waits until another packet has arrived.
func (s *stream) flows(t *testing.T) {
	t.Helper()
	for before := s.arrived.Load(); s.arrived.Load() == before; time.Sleep(100 * time.Microsecond) {
		select {
		case <-s.done:
			t.Fatal(s.err)
		default:
		}
	}
}

func (s *stream) end() error {
	s.stop.Store(true)
	<-s.done
	return s.err
}

// TestContractSwapsUnderTraffic changes the chain under traffic, again and again: no packet is lost, none sees
// parts of two revisions, and the counters of all revisions tell of every packet.
func TestContractSwapsUnderTraffic(t *testing.T) {
	for _, mode := range []chain.Mode{chain.Native, chain.Generic} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t)
			p := b.steps(6)
			chains := [][]*program{{p[0], p[1]}, {p[3], p[2], p[4]}, {p[5]}, {p[1], p[0], p[3], p[5]}}
			trails := make([][]byte, len(chains))
			for i, members := range chains {
				for _, m := range members {
					trails[i] = append(trails[i], byte(m.id))
				}
			}
			plan := func(i int) Plan {
				plan := b.plan(all(passing, chains[i]...)...)
				plan.Mode = mode
				return plan
			}
			most := swapsMost
			if mode == chain.Generic {
				most = swapsLeast
			}
			b.run(plan(0))
			s := b.startStream(trails)
			defer s.end() // also where the test fails on its way
			counted := make([]uint64, len(chains))
			count := func(revision uint64) {
				i := int(revision-1) % len(chains)
				e, err := b.plane.Counters(b.dev, revision)
				b.check(err)
				counted[i] += e.Packets(len(chains[i]))
				if end := e.End(len(chains[i])); end != e.Packets(len(chains[i])) {
					t.Fatalf("revision %d: packets left at %v", revision, e)
				}
			}
			limit := swapsTime
			if testing.Short() {
				limit /= 8
			}
			swaps, began := 0, time.Now()
			for ; swaps < most && (swaps < swapsLeast || time.Since(began) < limit); swaps++ {
				old := b.revision
				staged, err := b.stage(b.dev, plan((swaps+1)%len(chains)))
				b.check(err)
				b.check(errors.Join(staged.Commit(), staged.Discard()))
				b.check(Quiesce())
				count(old)
				b.check(b.plane.Prune(b.dev, b.revision, nil))
				s.flows(t)
			}
			b.check(s.end())
			b.check(Quiesce())
			count(b.revision)
			if !slices.Equal(counted, s.counts) {
				t.Errorf("the revisions counted %v packets, %v arrived with their marks", counted, s.counts)
			}
			for i, member := range p {
				seen := uint64(0)
				for k, members := range chains {
					if slices.Contains(members, p[i]) {
						seen += s.counts[k]
					}
				}
				if got := member.state().Seen; got != seen {
					t.Errorf("member %d saw %d packets, want %d", i, got, seen)
				}
			}
			t.Logf("%d swaps in %v, %d packets, by chain %v", swaps, time.Since(began).Round(time.Millisecond), s.sent, s.counts)
		})
	}
}
