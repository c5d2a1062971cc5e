// SPDX-License-Identifier: Apache-2.0

package store

import (
	"time"

	"github.com/xdpd/xdpd/chain"
)

// Program is one XDP function of one object: what it takes to load it.
type Program struct {
	ID       uint64         `json:"id"` // of its pins; from NextProgramID; a new version of a program has a new one
	Name     string         `json:"name"`
	Function string         `json:"function"`
	Object   string         `json:"object"` // sha256 of the object, in lower-case hex
	Size     uint64         `json:"size"`   // of the object, in bytes
	Lifetime string         `json:"lifetime"`
	Added    time.Time      `json:"added"`
	OwnerUID uint32         `json:"owner_uid"`
	Settings chain.Settings `json:"settings,omitzero"`
	Lease    uint64         `json:"lease,omitempty"`    // the id of a lease that exists; 0: none
	Patterns []Pattern      `json:"patterns,omitempty"` // of different globs; up to MaxPatterns
}

// Pattern places a program on every interface that matches it when it appears.
type Pattern struct {
	Glob      string           `json:"glob"` // of chain.Match
	Priority  *int32           `json:"priority,omitempty"`
	Position  chain.Position   `json:"position,omitzero"`
	ProceedOn *chain.ProceedOn `json:"proceed_on,omitempty"` // nil: {PASS}
	Mode      chain.Mode       `json:"mode,omitempty"`
	Except    []string         `json:"except,omitempty"` // interfaces that the program was taken from, sorted; up to MaxExcept
}

// Lease is a client's: its programs go when the client does.
type Lease struct {
	ID     uint64        `json:"id"`    // from NextLeaseID
	Token  string        `json:"token"` // unique in the store, up to MaxText bytes; whoever knows it may hold the lease
	Holder Caller        `json:"holder"`
	Grace  time.Duration `json:"grace"` // how long the programs stay when nobody holds it
}

// Revision says what the slots of a loaded revision are, so that its counters can be folded into Totals.
type Revision struct {
	Number uint64 `json:"number"`
	Slots  []Slot `json:"slots"`
}

// Slot is what fills one slot of a revision.
type Slot struct {
	Program   string `json:"program"`
	ProgramID uint64 `json:"program_id"`
}

// Chain is an interface's chain as it is meant to be, and what it counted in revisions that are gone.
type Chain struct {
	Interface  string                  `json:"interface"`        // NAME or NETNS:NAME, as of chain.ParseInterface; unique in the store
	Netns      uint64                  `json:"netns,omitempty"`  // with Ifindex: the cookie of the namespace that the link was made in; 0: the daemon's own
	Ifindex    int                     `json:"ifindex"`          // of the interface when the link was made, which names the pins; 0: there is none
	Use        int                     `json:"use,omitempty"`    // with Ifindex: tells pins apart from those of an interface that had it before and was moved away
	Former     string                  `json:"former,omitempty"` // what the interface was called before, since the host was booted
	Chain      chain.Chain             `json:"chain"`
	Revision   uint64                  `json:"revision"`  // the intended one
	Revisions  []Revision              `json:"revisions"` // that are not folded yet; if any, the intended one is the last
	Actual     chain.Mode              `json:"actual,omitempty"`
	ModeReason string                  `json:"mode_reason,omitempty"`
	Linker     string                  `json:"linker,omitempty"`
	Totals     map[string]chain.Counts `json:"totals,omitempty"` // by name of the program: folded
	End        uint64                  `json:"end"`              // packets that got the final verdict: folded
	Packets    uint64                  `json:"packets"`          // folded
}

// Caller is the process that asked for a change.
type Caller struct {
	UID uint32 `json:"uid"`
	PID int32  `json:"pid"`
}

// Entry is a chain that an interface has or had, in its history. Each member has its program in Programs, and there are
// no others.
type Entry struct {
	Interface string      `json:"interface"`
	Revision  uint64      `json:"revision"` // unique for the interface, not 0; LastRevision becomes at least this
	Chain     chain.Chain `json:"chain"`    // without members: there was none from then on
	Programs  []Program   `json:"programs"` // of its members, as they were; their objects are kept
	Time      time.Time   `json:"time"`
	Caller    Caller      `json:"caller"`
	What      string      `json:"what"`              // such as "add blocklist"; up to MaxText bytes
	Comment   string      `json:"comment,omitempty"` // up to MaxText bytes
	Diff      []string    `json:"diff,omitempty"`    // from the chain before it, for people; up to MaxDiff lines of MaxDiffLine bytes
}

// Pending is a change that is undone unless it is confirmed in time, with what it takes to undo it: the chains as they
// were, whose members are programs that exist or are in Programs. An interface is in one pending change at most, and so
// is a program, in Programs or Added.
type Pending struct {
	ID       uint64         `json:"id"`       // from NextPendingID
	BootID   string         `json:"boot_id"`  // of the boot that Deadline is of
	Deadline time.Duration  `json:"deadline"` // on CLOCK_BOOTTIME
	Chains   []PendingChain `json:"chains"`   // those that it changed
	Programs []Program      `json:"programs"` // that it replaced or removed, as they were; their objects and pins are kept
	Added    []string       `json:"added"`    // programs that there were not before
	Caller   Caller         `json:"caller"`
	What     string         `json:"what"` // up to MaxText bytes
}

// PendingChain is a chain as it was before a change that is pending.
type PendingChain struct {
	Interface string       `json:"interface"`
	Before    *chain.Chain `json:"before"` // nil: there was none
}

// Change is what Save makes durable. A record can be put or deleted, not both, and once.
type Change struct {
	BootID         string            // empty: stays
	PutPrograms    []Program         // new ones, and new versions of old ones
	Objects        map[string][]byte // objects by sha256 that the store may not have yet
	DeletePrograms []string          // names; of what is absent: nothing
	PutChains      []Chain           // new ones, and new versions of old ones
	DeleteChains   []string          // names of interfaces; of what is absent: nothing
	PutHistory     []Entry           // new ones, and new versions of old ones; the oldest of their interfaces beyond HistoryLimit go
	DeleteHistory  []EntryKey        // of what is absent: nothing
	HistoryLimit   int               // how many entries an interface keeps when it gets a new one; 0: none, not even the new one
	PutPending     []Pending         // new ones, and new versions of old ones
	DeletePending  []uint64          // ids; of what is absent: nothing
	PutLeases      []Lease           // new ones, and new versions of old ones
	DeleteLeases   []uint64          // ids; of what is absent: nothing
	// Chains that get other names, before all else in the change: the keys are names of chains that exist, the values are unique and free, or keys
	// too. History and pending changes go along; what history a new name had is dropped. A PutChains of the new name may follow.
	RenameChains map[string]string
}

// EntryKey names an entry of the history.
type EntryKey struct {
	Interface string
	Revision  uint64
}

func (c Change) isEmpty() bool {
	return c.BootID == "" && len(c.PutPrograms) == 0 && len(c.DeletePrograms) == 0 && len(c.PutChains) == 0 && len(c.DeleteChains) == 0 &&
		len(c.PutHistory) == 0 && len(c.DeleteHistory) == 0 && len(c.PutPending) == 0 && len(c.DeletePending) == 0 &&
		len(c.PutLeases) == 0 && len(c.DeleteLeases) == 0 && len(c.RenameChains) == 0
}
