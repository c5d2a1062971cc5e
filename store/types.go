// SPDX-License-Identifier: Apache-2.0

package store

import (
	"time"

	"github.com/xdpd/xdpd/chain"
)

// Program is one XDP function of one object, as a user added it.
type Program struct {
	ID       uint64    `json:"id"` // of its pins; from NextProgramID
	Name     string    `json:"name"`
	Function string    `json:"function"`
	Object   string    `json:"object"` // sha256 of the object, in lower-case hex
	Size     uint64    `json:"size"`   // of the object, in bytes
	Lifetime string    `json:"lifetime"`
	Added    time.Time `json:"added"`
	OwnerUID uint32    `json:"owner_uid"`
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
	Netns      string                  `json:"netns,omitempty"` // empty: the daemon's own
	Interface  string                  `json:"interface"`       // unique in the store
	Ifindex    int                     `json:"ifindex"`
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

// Change is what one Save makes durable. A name can be put or deleted, not both.
type Change struct {
	BootID         string            // empty: stays
	PutPrograms    []Program         // new ones, and new versions of old ones
	Objects        map[string][]byte // objects by sha256 that the store may not have yet
	DeletePrograms []string          // names; of what is absent: nothing
	PutChains      []Chain           // new ones, and new versions of old ones
	DeleteChains   []string          // names of interfaces; of what is absent: nothing
}

func (c Change) isEmpty() bool {
	return c.BootID == "" && len(c.PutPrograms) == 0 && len(c.DeletePrograms) == 0 && len(c.PutChains) == 0 && len(c.DeleteChains) == 0
}
