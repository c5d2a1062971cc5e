// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"net/netip"
	"testing"
)

type prefix4 struct {
	Bits uint32
	Addr [4]byte
}

type prefix6 struct {
	Bits uint32
	Addr [16]byte
}

type portKey struct {
	Proto uint8
	_     uint8
	Port  [2]byte
}

// source makes a rule: 1 denies, 0 is an exception.
func source(l loaded, prefix string, deny uint32) {
	l.Helper()
	p := netip.MustParsePrefix(prefix)
	if p.Addr().Is4() {
		l.put("denied4", prefix4{uint32(p.Bits()), p.Addr().As4()}, deny)
	} else {
		l.put("denied6", prefix6{uint32(p.Bits()), p.Addr().As16()}, deny)
	}
}

func denyPort(l loaded, proto uint8, number uint16) {
	l.Helper()
	l.put("denied_ports", portKey{Proto: proto, Port: [2]byte{byte(number >> 8), byte(number)}}, uint32(0))
}

// wantDropped checks all the counters.
func wantDropped(l loaded, want [4]uint64) {
	l.Helper()
	var got [4]uint64
	for i := range got {
		got[i] = l.total("dropped", uint32(i))
	}
	if got != want {
		l.Errorf("dropped by source4, source6, port, hidden: %v, want %v", got, want)
	}
}

func TestBlocklistWithoutRules(t *testing.T) {
	l := load(t, "blocklist")
	eachShape(func(name string, p packet) { l.want(pass, p.bytes(), name) })
	l.want(pass, append(make([]byte, 12), 8, 6, 0, 1), "ARP")
	wantDropped(l, [4]uint64{})
}

func TestBlocklistSources(t *testing.T) {
	l := load(t, "blocklist")
	source(l, "192.0.2.0/24", 1)
	source(l, "192.0.2.128/25", 0)
	source(l, "192.0.2.200/32", 1)
	source(l, "2001:db8:1::/48", 1)
	source(l, "2001:db8:1:5::/64", 0)
	for from, verdict := range map[string]uint32{
		"192.0.2.1:1":           drop,
		"192.0.2.127:1":         drop,
		"192.0.2.128:1":         pass,
		"192.0.2.200:1":         drop,
		"192.0.3.1:1":           pass,
		"[2001:db8:1::1]:1":     drop,
		"[2001:db8:1:5::1]:1":   pass,
		"[2001:db8:2::1]:1":     pass,
		"[::ffff:192.0.2.1]:1":  pass,
		"[2001:db8:1:ffff::]:1": drop,
	} {
		to := "198.51.100.1:80"
		if !addr(from).Addr().Is4() {
			to = "[2001:db8:2::1]:80"
		}
		l.want(verdict, between(udp, from, to).bytes(), from)
	}
	wantDropped(l, [4]uint64{3, 2, 0, 0})
}

// TestBlocklistSourceAtEveryLength: the source decides as soon as its whole header is there.
func TestBlocklistSourceAtEveryLength(t *testing.T) {
	l := load(t, "blocklist")
	source(l, "0.0.0.0/0", 1)
	source(l, "::/0", 1)
	eachShape(func(name string, p packet) {
		header := 40
		if p.src.Addr().Is4() {
			header = 20
		}
		wantFrom(l, name, p.bytes(), p.l3()+header)
	})
}

func TestBlocklistPortAtEveryLength(t *testing.T) {
	l := load(t, "blocklist")
	denyPort(l, tcp, 80)
	denyPort(l, udp, 80)
	eachShape(func(name string, p packet) { wantFrom(l, name, p.bytes(), p.l4()+4) })
}

// wantFrom checks that a packet is dropped from a length on, and passes when cut shorter.
func wantFrom(l loaded, name string, whole []byte, from int) {
	l.Helper()
	for n := 14; n <= len(whole); n++ {
		verdict := uint32(pass)
		if n >= from {
			verdict = drop
		}
		if got, _ := l.run(whole[:n]); got != verdict {
			l.Errorf("%s, %d of %d bytes: verdict %d, want %d", name, n, len(whole), got, verdict)
			return
		}
	}
}

func TestBlocklistPorts(t *testing.T) {
	l := load(t, "blocklist")
	denyPort(l, udp, 53)
	l.want(drop, between(udp, "192.0.2.1:1", "198.51.100.1:53").bytes(), "denied")
	l.want(pass, between(tcp, "192.0.2.1:1", "198.51.100.1:53").bytes(), "another protocol")
	l.want(pass, between(udp, "192.0.2.1:53", "198.51.100.1:54").bytes(), "a source port")
	l.want(pass, between(udp, "192.0.2.1:1", "198.51.100.1:13568").bytes(), "the port in the other byte order")
	icmp := between(icmp6, "[2001:db8::1]:1", "[2001:db8::2]:53").with(func(p *packet) {
		p.raw, p.payload = true, "\x80\x00\x00\x35\x00\x35\x00\x35"
	})
	l.want(pass, icmp.bytes(), "ICMPv6")
	wantDropped(l, [4]uint64{0, 0, 1, 0})
}

func TestBlocklistFragments(t *testing.T) {
	l := load(t, "blocklist")
	denyPort(l, udp, 80)
	p4, p6 := between(udp, "192.0.2.1:1", "198.51.100.1:80"), between(udp, "[2001:db8::1]:1", "[2001:db8::2]:80")
	l.want(drop, p4.with(func(p *packet) { p.frag = 0x2000 }).bytes(), "first of IPv4")
	l.want(drop, p4.with(func(p *packet) { p.frag = 0x4000 }).bytes(), "unfragmented IPv4")
	l.want(pass, p4.with(func(p *packet) { p.frag = 0x2001 }).bytes(), "middle of IPv4")
	l.want(pass, p4.with(func(p *packet) { p.frag = 0x00b9 }).bytes(), "last of IPv4")
	l.want(drop, p6.with(func(p *packet) { p.ext = []ext{fragmentHeader(0, true)} }).bytes(), "first of IPv6")
	l.want(pass, p6.with(func(p *packet) { p.ext = []ext{fragmentHeader(1, true)} }).bytes(), "middle of IPv6")
	l.want(pass, p6.with(func(p *packet) { p.ext = []ext{fragmentHeader(185, false)} }).bytes(), "last of IPv6")
	wantDropped(l, [4]uint64{0, 0, 3, 0})
}

func TestBlocklistHiddenPorts(t *testing.T) {
	l := load(t, "blocklist")
	p := between(udp, "[2001:db8::1]:1", "[2001:db8::2]:80")
	l.want(drop, p.with(func(p *packet) { p.ext = extensions(9) }).bytes(), "nine extension headers")
	first := p.with(func(p *packet) { p.ext = append([]ext{fragmentHeader(0, true)}, extensions(1)...) })
	l.want(pass, first.bytes(), "a first fragment with its ports")
	for n := first.l3() + 48; n < first.l4()+4; n++ {
		l.want(drop, first.bytes()[:n], "a first fragment cut before its ports")
	}
	wantDropped(l, [4]uint64{0, 0, 0, 1 + 20})
}

func TestBlocklistTooManyTags(t *testing.T) {
	l := load(t, "blocklist")
	source(l, "0.0.0.0/0", 1)
	p := between(udp, "192.0.2.1:1", "198.51.100.1:80")
	l.want(drop, p.bytes(), "no tag")
	l.want(pass, p.with(func(p *packet) { p.tags = []uint16{vlan8021ad, vlan8021q, vlan8021q} }).bytes(), "three tags")
}
