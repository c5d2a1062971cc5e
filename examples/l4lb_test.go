// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/xdpd/xdpd/examples/l4lb"
)

const perFamily = 5 // backends

// The addresses of the balancer itself.
var (
	self4 = netip.MustParseAddr("192.0.2.250")
	self6 = netip.MustParseAddr("2001:db8::250")
)

// realServer is the backend with an id: of 1 to 5 in IPv4, of 6 to 10 in IPv6.
func realServer(id uint32) netip.AddrPort {
	if id <= perFamily {
		return addr(fmt.Sprintf("10.0.0.%d:8080", id))
	}
	return addr(fmt.Sprintf("[fd00::%d]:8080", id))
}

func macOf(id uint32) [6]byte { return [6]byte{2, 0, 0, 0, 1, byte(id)} }

// vipOf returns the index of a service.
func vipOf(proto uint8, service netip.AddrPort) uint32 {
	index := uint32(0)
	if proto == udp {
		index += 2
	}
	if service.Addr().Is6() {
		index++
	}
	return index
}

// tableOf returns the table of one family's backends without some.
func tableOf(l loaded, ip6 bool, without ...uint32) []uint32 {
	l.Helper()
	names := map[uint32]string{}
	for i := uint32(1); i <= perFamily; i++ {
		id := i
		if ip6 {
			id += perFamily
		}
		if !slices.Contains(without, id) {
			names[id] = realServer(id).String()
		}
	}
	table, err := l4lb.Table(names)
	if err != nil {
		l.Fatal(err)
	}
	return table
}

// balance makes the destinations of the plain packets services.
func balance(l loaded, proto uint8, flags uint32) {
	l.Helper()
	for id := uint32(1); id <= 2*perFamily; id++ {
		mac := macOf(id)
		l.put("backends", id, l4lb.NewBackend(realServer(id), mac[:]))
	}
	l.put("self", uint32(0), l4lb.Self{Addr4: self4.As16(), Addr6: self6.As16()})
	for _, p := range plain() {
		index := vipOf(proto, p.dst)
		l.put("vips", l4lb.NewService(p.dst, proto), l4lb.VIP{Index: index, Flags: flags})
		l.put("tables", index, tableOf(l, p.dst.Addr().Is6()))
	}
}

func (l loaded) counter(index uint32) (sum l4lb.Counter) {
	l.Helper()
	var perCPU []l4lb.Counter
	if err := l.maps["counters"].Lookup(index, &perCPU); err != nil {
		l.Fatal(err)
	}
	for _, c := range perCPU {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
		sum.Dropped += c.Dropped
	}
	return sum
}

// sent runs a packet that the program has to send, and returns what a receiver makes of it, and the backend
// that the packet's flow belongs to.
func (l loaded) sent(name string, p packet) (decoded, uint32) {
	l.Helper()
	verdict, out := l.run(p.bytes())
	if verdict != tx {
		l.Fatalf("%s: verdict %d, want %d", name, verdict, tx)
	}
	d, err := decode(out)
	if err != nil {
		l.Fatalf("%s: sent a packet with %v", name, err)
	}
	id := tableOf(l, p.dst.Addr().Is6())[l4lb.Slot(p.proto, p.src, p.dst)]
	if d.dstMAC != macOf(id) || d.srcMAC != ownMAC || !slices.Equal(d.tags, p.tags) {
		l.Errorf("%s: sent from %x to %x with tags %x, want from %x to %x with %x", name,
			d.srcMAC, d.dstMAC, d.tags, ownMAC, macOf(id), p.tags)
	}
	return d, id
}

// wantBehind checks what must be behind an inner or rewritten header.
func wantBehind(l loaded, name string, got ipPacket, p packet, dst netip.AddrPort) {
	l.Helper()
	if got.src != p.src || got.dst != dst || got.proto != p.proto || got.payload != p.payload {
		l.Errorf("%s: %v to %v, protocol %d, %q; want %v to %v, protocol %d, %q", name,
			got.src, got.dst, got.proto, got.payload, p.src, dst, p.proto, p.payload)
	}
	if got.hops != p.ttl()-1 || got.tos != p.tos || got.noChecksum != p.noChecksum {
		l.Errorf("%s: hops %d, class %#x, no checksum %v; want %d, %#x, %v", name,
			got.hops, got.tos, got.noChecksum, p.ttl()-1, p.tos, p.noChecksum)
	}
}

func TestBalanceRewrites(t *testing.T) {
	l := load(t, "l4lb")
	balance(l, tcp, 0)
	balance(l, udp, 0)
	var packets, bytes uint64
	eachShape(func(name string, p packet) {
		p.tos, p.hops = 0xb8, 2
		d, id := l.sent(name, p)
		wantBehind(l, name, d.ip, p, realServer(id))
		packets++
		bytes += uint64(len(p.bytes()))
	})
	var got l4lb.Counter
	for index := range uint32(4) {
		c := l.counter(index)
		got.Packets += c.Packets
		got.Bytes += c.Bytes
		got.Dropped += c.Dropped
	}
	if got != (l4lb.Counter{Packets: packets, Bytes: bytes}) {
		t.Errorf("counted %+v, want %d packets with %d bytes", got, packets, bytes)
	}
}

// TestBalanceChecksums rewrites packets with many payloads and ports, for all the carries that there are.
func TestBalanceChecksums(t *testing.T) {
	l := load(t, "l4lb")
	balance(l, tcp, 0)
	balance(l, udp, 0)
	for _, p := range plain() {
		for i := range 2000 {
			p.src = netip.AddrPortFrom(p.src.Addr(), uint16(i*31))
			p.payload = string([]byte{byte(i >> 3), byte(i * 7), byte(i)})
			p.hops, p.noChecksum = uint8(2+i%253), p.proto == udp && i%5 == 0
			d, id := l.sent(fmt.Sprint("flow ", i), p)
			wantBehind(l, fmt.Sprint("flow ", i), d.ip, p, realServer(id))
		}
	}
}

// TestBalanceZeroChecksum: a UDP checksum that comes out as 0 is sent as 0xffff, since 0 is none.
func TestBalanceZeroChecksum(t *testing.T) {
	l := load(t, "l4lb")
	balance(l, udp, 0)
	for _, p := range plain() {
		p.proto = udp
		id := tableOf(l, p.dst.Addr().Is6())[l4lb.Slot(p.proto, p.src, p.dst)]
		rewritten := p.with(func(p *packet) { p.dst = realServer(id) })
		found := false
		for i := 0; i <= 0xffff && !found; i++ {
			p.payload = string([]byte{byte(i >> 8), byte(i)})
			rewritten.payload = p.payload
			check := rewritten.bytes()[p.l4()+6:]
			found = check[0] == 0xff && check[1] == 0xff
		}
		if !found {
			t.Fatal("no payload makes the checksum 0")
		}
		d, _ := l.sent("a packet", p)
		wantBehind(l, "a packet", d.ip, p, realServer(id))
	}
}

func TestBalanceEncapsulates(t *testing.T) {
	l := load(t, "l4lb")
	balance(l, tcp, l4lb.Encapsulate)
	balance(l, udp, l4lb.Encapsulate)
	eachShape(func(name string, p packet) {
		p.tos, p.hops = 0x2e, 9
		d, id := l.sent(name, p)
		from, proto, read := self4, uint8(ipip), decode4
		if p.src.Addr().Is6() {
			from, proto, read = self6, ip6ip6, decode6
		}
		o := d.ip
		if o.src.Addr() != from || o.dst.Addr() != realServer(id).Addr() || o.proto != proto || o.hops != 64 || o.tos != p.tos {
			t.Errorf("%s: outer header %v to %v, protocol %d, hops %d, class %#x", name, o.src, o.dst, o.proto, o.hops, o.tos)
		}
		if p.src.Addr().Is4() && o.frag != 0x4000 {
			t.Errorf("%s: outer fragment word %#x, want one that forbids fragments", name, o.frag)
		}
		inner, err := read(o.body)
		if err != nil {
			t.Fatalf("%s: inner %v", name, err)
		}
		wantBehind(l, name, inner, p, p.dst)
	})
}

// TestBalanceLabels: flows in IPv6 have labels of their own in the outer header, and keep them.
func TestBalanceLabels(t *testing.T) {
	l := load(t, "l4lb")
	balance(l, tcp, l4lb.Encapsulate)
	p := between(tcp, "[2001:db8:1::1]:0", "[2001:db8:2::1]:80")
	labels := map[uint32]bool{}
	for sport := range uint16(64) {
		p.src = netip.AddrPortFrom(p.src.Addr(), sport)
		first, _ := l.sent("a flow", p)
		again, _ := l.sent("the flow again", p)
		if first.ip.label != again.ip.label {
			t.Errorf("one flow has labels %#x and %#x", first.ip.label, again.ip.label)
		}
		labels[first.ip.label] = true
	}
	if len(labels) < 60 {
		t.Errorf("64 flows have only %d labels", len(labels))
	}
}

// TestBalanceSpread counts flows by backend, and those that move when a backend goes.
func TestBalanceSpread(t *testing.T) {
	const flows, gone = 4000, 3
	l := load(t, "l4lb")
	balance(l, tcp, 0)
	run := func() (to []netip.AddrPort) {
		for i := range flows {
			p := between(tcp, fmt.Sprintf("192.0.2.%d:%d", i%200, 1024+i/7), "198.51.100.1:80")
			verdict, out := l.run(p.bytes())
			d, err := decode(out)
			if verdict != tx || err != nil {
				t.Fatalf("verdict %d, %v", verdict, err)
			}
			to = append(to, d.ip.dst)
		}
		return to
	}
	before := run()
	count := map[netip.AddrPort]int{}
	for _, b := range before {
		count[b]++
	}
	for id := uint32(1); id <= perFamily; id++ {
		if n := count[realServer(id)]; n < flows/perFamily*85/100 || n > flows/perFamily*115/100 {
			t.Errorf("backend %d has %d of %d flows, want about a fifth", id, n, flows)
		}
	}

	l.put("tables", uint32(0), tableOf(l, false, gone))
	moved := 0
	for i, b := range run() {
		if b == realServer(gone) {
			t.Fatalf("flow %d still goes to the backend that is gone", i)
		}
		if b != before[i] && before[i] != realServer(gone) {
			moved++
		}
	}
	if moved > flows/20 {
		t.Errorf("%d of %d flows moved between backends that stayed", moved, flows)
	}
}

func TestBalanceAnswers(t *testing.T) {
	l := load(t, "l4lb")
	eachShape(func(name string, p packet) {
		service := p.dst
		p.src, p.dst = realServer(1), addr("203.0.113.9:4000")
		if service.Addr().Is6() {
			p.src, p.dst = realServer(6), addr("[2001:db8:9::9]:4000")
		}
		l.put("origins", l4lb.NewService(p.src, p.proto), l4lb.NewOrigin(service))
		verdict, out := l.run(p.bytes())
		d, err := decode(out)
		if verdict != pass || err != nil {
			t.Fatalf("%s: verdict %d, %v", name, verdict, err)
		}
		if d.ip.src != service || d.ip.dst != p.dst || d.ip.hops != p.ttl() || d.ip.payload != p.payload {
			t.Errorf("%s: %v to %v, hops %d, %q", name, d.ip.src, d.ip.dst, d.ip.hops, d.ip.payload)
		}
	})
}

func TestBalancePasses(t *testing.T) {
	l := load(t, "l4lb")
	balance(l, tcp, 0)
	balance(l, udp, l4lb.Encapsulate)
	p4, p6 := between(udp, "192.0.2.1:1", "198.51.100.1:80"), between(tcp, "[2001:db8::1]:1", "[2001:db8:2::1]:80")
	for name, p := range map[string]packet{
		"another port":     between(udp, "192.0.2.1:1", "198.51.100.1:81"),
		"another address":  between(udp, "192.0.2.1:1", "198.51.100.2:80"),
		"last hop, IPv4":   p4.with(func(p *packet) { p.hops = 1 }),
		"last hop, IPv6":   p6.with(func(p *packet) { p.hops = 1 }),
		"first fragment":   p4.with(func(p *packet) { p.frag = 0x2000 }),
		"later fragment":   p4.with(func(p *packet) { p.frag = 0x0010 }),
		"fragment of IPv6": p6.with(func(p *packet) { p.ext = []ext{fragmentHeader(0, true)} }),
		"routing header":   p6.with(func(p *packet) { p.ext = []ext{{routing, append([]byte{0, 2, 0, 1}, make([]byte, 20)...)}} }),
	} {
		whole := p.bytes()
		if verdict, out := l.run(whole); verdict != pass || !slices.Equal(out, whole) {
			t.Errorf("%s: verdict %d, want %d and the packet unchanged", name, verdict, pass)
		}
	}
	for index := range uint32(4) {
		if c := l.counter(index); c != (l4lb.Counter{}) {
			t.Errorf("service %d counted %+v", index, c)
		}
	}
}

// TestBalanceAtEveryLength: a packet shorter than its IP header says goes to the stack as it is.
func TestBalanceAtEveryLength(t *testing.T) {
	l := load(t, "l4lb")
	balance(l, tcp, 0)
	balance(l, udp, l4lb.Encapsulate)
	eachShape(func(name string, p packet) {
		whole := p.bytes()
		for n := 14; n < len(whole)-p.pad; n++ {
			if verdict, out := l.run(whole[:n]); verdict != pass || !slices.Equal(out, whole[:n]) {
				t.Fatalf("%s, %d of %d bytes: verdict %d, want %d and the packet unchanged", name, n, len(whole), verdict, pass)
			}
		}
	})
}

// TestBalanceLyingLength: a packet whose IP header claims less than it needs goes to the stack.
func TestBalanceLyingLength(t *testing.T) {
	l := load(t, "l4lb")
	balance(l, tcp, l4lb.Encapsulate)
	for _, p := range plain() {
		b := p.with(func(p *packet) { p.proto = tcp }).bytes()
		at, header := p.l3()+2, 20
		if p.src.Addr().Is6() {
			at, header = p.l3()+4, 0
		}
		for claim, verdict := range map[int]uint32{0: pass, header + 19: pass, header + 20: tx} {
			b[at], b[at+1] = 0, byte(claim)
			l.want(verdict, b, fmt.Sprint("a length of ", claim))
		}
	}
}

func TestBalanceWithoutBackend(t *testing.T) {
	for name, spoil := range map[string]func(loaded){
		"empty table":    func(l loaded) { l.put("tables", uint32(0), make([]uint32, l4lb.TableSize)) },
		"unset backend":  func(l loaded) { l.put("tables", uint32(0), slices.Repeat([]uint32{500}, l4lb.TableSize)) },
		"no such id":     func(l loaded) { l.put("tables", uint32(0), slices.Repeat([]uint32{1 << 20}, l4lb.TableSize)) },
		"another family": func(l loaded) { l.put("tables", uint32(0), slices.Repeat([]uint32{6}, l4lb.TableSize)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := load(t, "l4lb")
			balance(l, tcp, 0)
			spoil(l)
			l.want(drop, between(tcp, "192.0.2.1:1", "198.51.100.1:80").bytes(), "a packet to the service")
			if c := l.counter(0); c != (l4lb.Counter{Dropped: 1}) {
				t.Errorf("counted %+v, want one dropped packet", c)
			}
		})
	}
}
