// SPDX-License-Identifier: Apache-2.0

// Package control is the one way that a change takes: compute, stage, save, commit, fold, unpin; and reconcile,
// which finishes or undoes at start what a killed daemon left in the middle.
//
// It imports chain, store, dispatcher and netif, which do not know each other: this is where they meet.
package control

import (
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
)

// Lifetime says what ends a program besides its removal. "lease" is reserved.
type Lifetime string

// The lifetimes.
const (
	Daemon     Lifetime = "daemon"     // until the daemon is stopped or the host reboots
	Persistent Lifetime = "persistent" // back at the next start
)

// Position is a place relative to other members; at most one field is set, none: by priority alone.
type Position = chain.Position

// AddRequest asks for a program on interfaces. All names are as the client gave them.
type AddRequest struct {
	Name       string // empty: the function's name
	Object     []byte
	Function   string // empty: the only XDP program of the object
	Interfaces []string
	Priority   *int32 // nil: the default, or what the position needs
	Position   Position
	ProceedOn  *chain.ProceedOn // nil: {PASS}
	Mode       chain.Mode       // empty: auto for a new chain, else whatever it has
	Lifetime   Lifetime         // empty: daemon
	OwnerUID   uint32
}

// Update changes one member; nil fields stay.
type Update struct {
	Program   string
	Interface string // empty: each interface of the program
	Priority  *int32
	Position  Position
	ProceedOn *chain.ProceedOn
	Enabled   *bool
}

// Program is what there is to know of a program.
type Program struct {
	ID         uint64
	Name       string
	Function   string
	SHA256     string // of the object, in hex
	Size       uint64 // of the object, in bytes
	Lifetime   Lifetime
	Interfaces []string // sorted
	Maps       []Map    // sorted by name
	KernelID   uint32   // 0 where it has no program of its own in the kernel
	Added      time.Time
	OwnerUID   uint32
}

// Chain is what there is to know of an interface's chain.
type Chain struct {
	Interface  string
	Ifindex    int
	Revision   uint64 // the live one
	Mode       chain.Mode
	Actual     chain.Mode // native or generic
	ModeReason string     // why auto became generic
	Final      chain.Verdict
	Members    []Member
	Linker     string // "freplace" or "inline": of the live revision
	KernelID   uint32 // of the dispatcher program
	LinkID     uint32
	Packets    uint64 // that went through the chain
	End        uint64 // that got the final verdict
}

// Member is a chain's member with its slot and counts.
type Member struct {
	chain.Member
	Slot   int // -1: disabled, has none
	Counts chain.Counts
}

// Status tells about the daemon's working parts.
type Status struct {
	Kernel       string
	Linker       string
	LinkerReason string
	Probes       []Probe
	BPFFS        string
	Programs     int
	Chains       int
	Problems     []string
}

// What the dispatcher says of maps and linkers is passed on as it is.
type (
	Map   = dispatcher.Map
	Probe = dispatcher.Probe
)
