// SPDX-License-Identifier: Apache-2.0

package dispatcher

// Load says how a program is to be loaded.
type Load struct {
	ID     uint64 // new, greater than 0
	Name   string // for errors
	Object *Object
	Carry  uint64 // a loaded program, whose maps of the same name and shape it takes over; 0: none
	Share  uint64 // a loaded program, whose maps of the same name it uses, which must have the same shape; 0: none
	Shared string // the name of that program, for errors
	GID    int    // the group that may open the pins of the maps; 0: root alone
}

// Origin is where a map of a loaded program comes from.
type Origin string

// The origins.
const (
	OriginNew     Origin = "new"
	OriginCarried Origin = "carried"
	OriginShared  Origin = "shared"
)

// MapOrigin says where one map comes from.
type MapOrigin struct {
	Map    string
	Origin Origin
	Reason string // where a map of that name was there and is not used: what differs
}

// Trace is the way of one packet through a chain.
type Trace struct {
	Steps     []Step // of the members that saw it, in order
	Return    uint32 // the chain's return code
	PassedAll bool   // it got the final verdict
	Packet    []byte // as it came out
}

// Step is what one member did with a packet.
type Step struct {
	Name      string // of the program
	Return    uint32
	Proceeded bool // the next member, or the final verdict, came after it
}
