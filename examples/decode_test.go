// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// decoded is what a receiver makes of a packet. Its checksums were right.
type decoded struct {
	dstMAC, srcMAC [6]byte
	tags           []uint16
	ip             ipPacket
}

// ipPacket is an IP packet and, where it has TCP or UDP, its ports and payload.
type ipPacket struct {
	src, dst   netip.AddrPort
	proto      uint8
	hops, tos  uint8
	frag       uint16
	label      uint32
	body       []byte // behind the IP headers
	payload    string // behind the TCP or UDP header
	noChecksum bool
}

// decode reads a packet as a strict receiver does; bytes behind the IP packet are padding.
func decode(b []byte) (decoded, error) {
	var d decoded
	copy(d.dstMAC[:], b)
	copy(d.srcMAC[:], b[6:])
	b = b[12:]
	typ := binary.BigEndian.Uint16(b)
	for typ == vlan8021q || typ == vlan8021ad {
		d.tags = append(d.tags, typ)
		b = b[4:]
		typ = binary.BigEndian.Uint16(b)
	}
	var err error
	switch typ {
	case 0x0800:
		d.ip, err = decode4(b[2:])
	case 0x86dd:
		d.ip, err = decode6(b[2:])
	default:
		err = fmt.Errorf("EtherType %#x", typ)
	}
	return d, err
}

func decode4(b []byte) (ipPacket, error) {
	length, header := int(binary.BigEndian.Uint16(b[2:])), int(b[0]&15)*4
	if b[0]>>4 != 4 || length > len(b) || header < 20 || header > length {
		return ipPacket{}, fmt.Errorf("IPv4 header % x before %d bytes", b[:20], len(b)-20)
	}
	if s := sum(b[:header]); s != 0xffff {
		return ipPacket{}, fmt.Errorf("IPv4 header % x: sum %#x", b[:header], s)
	}
	p := ipPacket{tos: b[1], frag: binary.BigEndian.Uint16(b[6:]), hops: b[8], proto: b[9], body: b[header:length]}
	src, dst := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	return p.transport(src, dst)
}

func decode6(b []byte) (ipPacket, error) {
	length, first := int(binary.BigEndian.Uint16(b[4:])), binary.BigEndian.Uint32(b)
	if first>>28 != 6 || 40+length > len(b) {
		return ipPacket{}, fmt.Errorf("IPv6 header % x before %d bytes", b[:40], len(b)-40)
	}
	p := ipPacket{tos: uint8(first >> 20), label: first & 0xfffff, hops: b[7], proto: b[6], body: b[40 : 40+length]}
	src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	for {
		size := 0
		switch p.proto {
		case hopByHop, destOptions, routing:
			size = int(p.body[1])*8 + 8
		case fragment6:
			size = 8
		case auth:
			size = int(p.body[1])*4 + 8
		default:
			return p.transport(src, dst)
		}
		p.proto, p.body = p.body[0], p.body[size:]
	}
}

// transport fills in what is known behind the IP headers.
func (p ipPacket) transport(src, dst netip.Addr) (ipPacket, error) {
	header, check := 0, 0
	switch p.proto {
	case tcp:
		header, check = 20, 16
	case udp:
		header, check = 8, 6
		if n := int(binary.BigEndian.Uint16(p.body[4:])); n != len(p.body) {
			return p, fmt.Errorf("UDP length %d of %d bytes", n, len(p.body))
		}
	default:
		p.src, p.dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
		return p, nil
	}
	p.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(p.body))
	p.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(p.body[2:]))
	p.payload = string(p.body[header:])
	p.noChecksum = p.proto == udp && binary.BigEndian.Uint16(p.body[check:]) == 0
	if s := sum(pseudo(src, dst, p.proto, len(p.body)), p.body); s != 0xffff && !p.noChecksum {
		return p, fmt.Errorf("%v to %v, protocol %d: checksum off, sum %#x", p.src, p.dst, p.proto, s)
	}
	return p, nil
}
