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
	"github.com/xdpd/xdpd/store"
)

// Lifetime says what ends a program besides its removal.
type Lifetime string

// The lifetimes.
const (
	Daemon     Lifetime = "daemon"     // until the daemon is stopped or the host reboots
	Persistent Lifetime = "persistent" // back at the next start
	Leased     Lifetime = "lease"      // until its client's lease ends, or the daemon is stopped or the host reboots
)

// Position is a place relative to other members; at most one field is set, none: by priority alone.
type Position = chain.Position

// Options are what every change takes. The zero value asks for nothing but the change.
type Options struct {
	Expected      map[string]uint64 // by interface, the revision that it must have; 0: no chain
	DryRun        bool              // only see what would come of it
	ConfirmWithin time.Duration     // undo it unless it is confirmed within this time; 0: it stays
	Comment       string            // for the history
	Caller        Caller            // who asks
}

// Outcome is what a change did, or would do.
type Outcome struct {
	Changed bool // anything is different now
	DryRun  bool
	Diff    []string // for people
	Pending *Pending // nil: it does not wait to be confirmed
	Maps    []MapOrigin
	Took    []Takeover // foreign programs that it replaced
	Chains  []Chain    // those that were named, and those that changed, sorted by interface
}

// AddRequest asks for a program on interfaces. All names are as the client gave them.
type AddRequest struct {
	Name       string // empty: the function's name
	Object     Object
	Function   string   // empty: the only XDP program of the object
	Interfaces []string // as of chain.ParseInterface; also patterns, for interfaces that match now or later
	Priority   *int32   // nil: the default, or what the position needs
	Position   Position
	ProceedOn  *chain.ProceedOn // nil: {PASS}
	Mode       chain.Mode       // empty: auto for a new chain, else whatever it has
	Lifetime   Lifetime         // empty: daemon
	Lease      string           // with lifetime Leased: the token of the lease
	Takeover   bool             // replace a foreign program
	Settings   chain.Settings
	Options    Options
}

// Object is an ELF file, or the sha256 in hex of one that is known; at most one is set.
type Object struct {
	Data   []byte
	SHA256 string
}

// ReplaceRequest asks for a new version of a program.
type ReplaceRequest struct {
	Name      string
	Object    Object          // none: the one it has
	Function  string          // empty: the one it has, or if the object has no such, its only XDP program
	Settings  *chain.Settings // nil: those it has
	FreshMaps bool
	Options   Options
}

// RemoveRequest asks for a program to go from interfaces; none: from all.
type RemoveRequest struct {
	Name       string
	Interfaces []string
	Options    Options
}

// UpdateRequest asks for changes of members.
type UpdateRequest struct {
	Updates []Update
	Options Options
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

// SetRequest says what chains and programs there shall be.
type SetRequest struct {
	Objects   map[string][]byte // by sha256 in hex
	Programs  []ProgramSpec
	Chains    []ChainSpec
	FreshMaps bool
	Options   Options
}

// ProgramSpec is what a program shall be.
type ProgramSpec struct {
	Name     string
	SHA256   string          // of its object; empty: the one it has
	Function string          // empty: the one it has, or the only XDP program of the object
	Lifetime Lifetime        // empty: as it is; daemon, if it is new
	Settings *chain.Settings // nil: as they are; none, if it is new
}

// ChainSpec is what a chain shall be.
type ChainSpec struct {
	Interface string
	Mode      chain.Mode     // empty: as it is; auto, if it is new
	Final     *chain.Verdict // nil: pass
	Members   []MemberSpec   // none: no chain
}

// MemberSpec is what a member shall be.
type MemberSpec struct {
	Program   string
	Priority  *int32           // nil: see chain.Arrange
	ProceedOn *chain.ProceedOn // nil: {PASS}
	Disabled  bool
}

// RollbackRequest asks for an earlier chain of an interface.
type RollbackRequest struct {
	Interface  string
	Revision   uint64 // 0: the one before the last change
	Everywhere bool   // replace programs on their other interfaces too
	Options    Options
}

// History is an entry of an interface's history.
type History struct {
	store.Entry
	Current bool // the interface has this chain now
}

// Pending is a change that is undone unless it is confirmed in time.
type Pending struct {
	ID         uint64
	Until      time.Time // by the host's clock, as it is now
	Left       time.Duration
	Interfaces []string // sorted
	Programs   []string // sorted
	Caller     Caller
	What       string
}

// TestRequest is packets for a chain.
type TestRequest struct {
	Interface string
	Packets   [][]byte // from the Ethernet header on
	CopyMaps  bool
}

// TestResult is what became of them.
type TestResult struct {
	Revision uint64
	Packets  []dispatcher.Trace // for each packet
	LiveMaps []string           // that the programs could change for real: "program/map"
	Notes    []string           // what was not as on the wire
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
	Settings   chain.Settings
	Lease      uint64 // 0: none
	Patterns   []store.Pattern
}

// Map is a map of a program.
type Map struct {
	dispatcher.Map
	SharedWith []string // other programs that use it, sorted
}

// MapOrigin says where a map of a program that a change loaded comes from.
type MapOrigin struct {
	Program string
	dispatcher.MapOrigin
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
	Packets    uint64   // that went through the chain
	End        uint64   // that got the final verdict
	Pending    *Pending // a change of it that waits to be confirmed
	State      State
	Problem    string // what is wrong
	Former     string // what the interface was called before, since the host was booted
}

// State says whether a chain runs.
type State int

// The states.
const (
	Unknown   State = iota // the chain was not made, or is gone
	Running                // packets go through it
	Waiting                // there is no such interface
	Displaced              // a foreign program has its place
	Broken                 // something is to be repaired
)

// Takeover is a foreign program that a change replaced.
type Takeover struct {
	Interface string
	Foreign   Foreign
	Swapped   bool // by one swap; else the interface had no program for a moment
}

// Foreign is an XDP program that xdpd did not put where it is.
type Foreign struct {
	ID   uint32
	Name string // empty: not known
	Mode chain.Mode
}

// LeaseView is what there is to know of a lease.
type LeaseView struct {
	ID       uint64
	Held     bool
	Holder   Caller
	Grace    time.Duration
	Left     time.Duration // where it is not held
	Programs []string      // sorted
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
	Leases       []LeaseView // sorted by number
}

// What the other packages say of these is passed on as it is.
type (
	Caller = store.Caller
	Probe  = dispatcher.Probe
)
