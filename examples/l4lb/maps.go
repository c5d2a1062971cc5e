// SPDX-License-Identifier: Apache-2.0

// Package l4lb is the user space of the l4lb example: the layout of its maps and the tables that spread flows
// over backends.
//
// It imports the standard library only.
package l4lb

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// The sizes that l4lb.bpf.c was compiled with.
const (
	TableSize   = 16381 // slots in the table of a service
	MaxVIPs     = 32
	MaxBackends = 1024
)

// Encapsulate is the flag of a VIP whose packets are encapsulated; without it they are rewritten.
const Encapsulate = 1

// Service is a key of the maps vips and origins. An IPv4 address is kept as ::ffff:a.b.c.d, here and in the
// other types.
type Service struct {
	Addr  [16]byte
	Port  [2]byte // in network order
	Proto uint8
	_     uint8
}

// VIP is a value of the map vips.
type VIP struct {
	Index uint32 // into the maps tables and counters
	Flags uint32
}

// Backend is a value of the map backends. Its index there is its id; 0 is none.
type Backend struct {
	Addr [16]byte
	Port [2]byte // in network order; 0 is the service's
	MAC  [6]byte // of the backend or of the router on the way to it
}

// Origin is a value of the map origins.
type Origin struct {
	Addr [16]byte
	Port [2]byte // in network order
	_    [2]byte
}

// Self is the value of the map self: the source of outer headers.
type Self struct {
	Addr4, Addr6 [16]byte
}

// Counter is a value of the map counters, one for each CPU.
type Counter struct {
	Packets uint64 // sent to a backend
	Bytes   uint64 // of these, as they came in
	Dropped uint64 // no backend, or no room to encapsulate
}

// NewService returns the key for an address, port and IP protocol (6 or 17).
func NewService(at netip.AddrPort, proto uint8) Service {
	return Service{Addr: at.Addr().As16(), Port: port(at.Port()), Proto: proto}
}

// NewBackend returns the backend at an address and port that is reached through mac, of 6 bytes.
func NewBackend(at netip.AddrPort, mac net.HardwareAddr) Backend {
	return Backend{Addr: at.Addr().As16(), Port: port(at.Port()), MAC: [6]byte(mac)}
}

// NewOrigin returns what clients know a backend as.
func NewOrigin(at netip.AddrPort) Origin {
	return Origin{Addr: at.Addr().As16(), Port: port(at.Port())}
}

// Slot returns the slot of a service's table that the program picks for a flow of IP protocol proto.
func Slot(proto uint8, client, service netip.AddrPort) int {
	var hash uint64
	mix := func(v uint32) {
		hash = (hash ^ uint64(v)) * 0x9e3779b97f4a7c15
		hash ^= hash >> 32
	}
	for _, a := range []netip.Addr{client.Addr(), service.Addr()} {
		b := a.As16()
		for i := 0; i < len(b); i += 4 {
			mix(binary.BigEndian.Uint32(b[i:]))
		}
	}
	mix(uint32(client.Port())<<16 | uint32(service.Port()))
	mix(uint32(proto))
	return int(hash>>32) % TableSize
}

func port(p uint16) [2]byte { return [2]byte{byte(p >> 8), byte(p)} }
