// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"encoding/binary"
	"net/netip"
)

// The protocol numbers that the tests use.
const (
	hopByHop    = 0
	ipip        = 4
	tcp         = 6
	udp         = 17
	ip6ip6      = 41
	routing     = 43
	fragment6   = 44
	auth        = 51
	icmp6       = 58
	destOptions = 60
)

const (
	vlan8021q  = 0x8100
	vlan8021ad = 0x88a8
)

var (
	routerMAC = [6]byte{2, 0, 0, 0, 0, 1}
	ownMAC    = [6]byte{2, 0, 0, 0, 0, 2}
)

// ext is an IPv6 extension header: its type, and its bytes with the first (the next type) left for bytes to fill.
type ext struct {
	typ   uint8
	bytes []byte
}

// packet is a description of a packet.
type packet struct {
	tags       []uint16 // EtherTypes of VLAN tags, outermost first
	src, dst   netip.AddrPort
	proto      uint8
	tos        uint8
	hops       uint8  // 0: 64
	options    []byte // IPv4
	frag       uint16 // IPv4: the word of flags and offset
	ext        []ext
	payload    string
	raw        bool // payload is all there is behind the IP headers
	noChecksum bool // UDP
	pad        int  // bytes behind the IP packet
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// between makes a packet from one address and port to another.
func between(proto uint8, src, dst string) packet {
	return packet{proto: proto, src: addr(src), dst: addr(dst), payload: "payload"}
}

// with returns a changed copy.
func (p packet) with(change func(*packet)) packet {
	change(&p)
	return p
}

// bytes returns the packet with right lengths and checksums.
func (p packet) bytes() []byte {
	b := append(append([]byte{}, ownMAC[:]...), routerMAC[:]...)
	for i, t := range p.tags {
		b = binary.BigEndian.AppendUint16(b, t)
		b = binary.BigEndian.AppendUint16(b, uint16(100+i))
	}
	if p.src.Addr().Is4() {
		b = append(binary.BigEndian.AppendUint16(b, 0x0800), p.ip4()...)
	} else {
		b = append(binary.BigEndian.AppendUint16(b, 0x86dd), p.ip6()...)
	}
	return append(b, make([]byte, p.pad)...)
}

// l3 returns where the IP header begins.
func (p packet) l3() int { return 14 + 4*len(p.tags) }

// l4 returns where the TCP or UDP header begins.
func (p packet) l4() int {
	if p.src.Addr().Is4() {
		return p.l3() + 20 + len(p.options)
	}
	n := p.l3() + 40
	for _, e := range p.ext {
		n += len(e.bytes)
	}
	return n
}

func (p packet) ttl() uint8 {
	if p.hops == 0 {
		return 64
	}
	return p.hops
}

func (p packet) ip4() []byte {
	l4 := p.transport()
	b := []byte{byte(0x45 + len(p.options)/4), p.tos}
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(p.options)+len(l4)))
	b = binary.BigEndian.AppendUint16(b, 0x1234)
	b = binary.BigEndian.AppendUint16(b, p.frag)
	b = append(b, p.ttl(), p.proto, 0, 0)
	b = append(append(b, p.src.Addr().AsSlice()...), p.dst.Addr().AsSlice()...)
	b = append(b, p.options...)
	binary.BigEndian.PutUint16(b[10:], ^sum(b))
	return append(b, l4...)
}

func (p packet) ip6() []byte {
	l4 := p.transport()
	var exts []byte
	first := p.proto
	for i, e := range p.ext {
		if i == 0 {
			first = e.typ
		}
		next := p.proto
		if i+1 < len(p.ext) {
			next = p.ext[i+1].typ
		}
		exts = append(append(exts, next), e.bytes[1:]...)
	}
	b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(p.tos)<<20|0x12345)
	b = binary.BigEndian.AppendUint16(b, uint16(len(exts)+len(l4)))
	b = append(b, first, p.ttl())
	b = append(append(b, p.src.Addr().AsSlice()...), p.dst.Addr().AsSlice()...)
	return append(append(b, exts...), l4...)
}

func (p packet) transport() []byte {
	if p.raw {
		return []byte(p.payload)
	}
	b := binary.BigEndian.AppendUint16(nil, p.src.Port())
	b = binary.BigEndian.AppendUint16(b, p.dst.Port())
	check := 6
	switch p.proto {
	case tcp:
		check = 16
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 2, 5<<4, 0x10, 0xff, 0, 0, 0, 0, 0)
	case udp:
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload)))
		b = append(b, 0, 0)
	default:
		panic("no such transport")
	}
	b = append(b, p.payload...)
	if p.noChecksum {
		return b
	}
	c := ^sum(pseudo(p.src.Addr(), p.dst.Addr(), p.proto, len(b)), b)
	if c == 0 && p.proto == udp {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b[check:], c)
	return b
}

// pseudo returns the pseudo-header that TCP's and UDP's checksums cover.
func pseudo(src, dst netip.Addr, proto uint8, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, proto)
}

// sum is the ones' complement sum over the parts, of which all but the last have an even length.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			s += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			s += uint32(b[len(b)-1]) << 8
		}
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// shape is an arrangement of headers, as a change to a plain packet.
type shape struct {
	name   string
	only   int // 4 or 6; 0: both
	change func(*packet)
}

// shapes are the arrangements in which the ports can be found.
var shapes = []shape{
	{"plain", 0, func(*packet) {}},
	{"802.1Q", 0, func(p *packet) { p.tags = []uint16{vlan8021q} }},
	{"QinQ", 0, func(p *packet) { p.tags = []uint16{vlan8021ad, vlan8021q} }},
	{"padding", 0, func(p *packet) { p.pad = 18 }},
	{"options", 4, func(p *packet) { p.options = make([]byte, 12) }},
	{"most options", 4, func(p *packet) { p.options = make([]byte, 40); p.tags = []uint16{vlan8021q} }},
	{"hop-by-hop", 6, func(p *packet) { p.ext = []ext{{hopByHop, make([]byte, 8)}} }},
	{"atomic fragment", 6, func(p *packet) { p.ext = []ext{fragmentHeader(0, false)} }},
	{"auth", 6, func(p *packet) { p.ext = []ext{{auth, append([]byte{0, 4}, make([]byte, 22)...)}} }},
	{"most extensions", 6, func(p *packet) { p.ext = extensions(8); p.tags = []uint16{vlan8021ad, vlan8021q} }},
	{"long extension", 6, func(p *packet) { p.ext = []ext{{destOptions, append([]byte{0, 60}, make([]byte, 486)...)}} }},
}

// extensions returns n headers: hop-by-hop, then destination options.
func extensions(n int) []ext {
	all := make([]ext, n)
	for i := range all {
		all[i] = ext{destOptions, append([]byte{0, 1}, make([]byte, 14)...)}
	}
	all[0].typ = hopByHop
	return all
}

// fragmentHeader returns an IPv6 fragment header for an offset in units of 8 bytes.
func fragmentHeader(offset uint16, more bool) ext {
	word := offset << 3
	if more {
		word |= 1
	}
	b := binary.BigEndian.AppendUint16([]byte{0, 0}, word)
	return ext{fragment6, append(b, 1, 2, 3, 4)}
}
