// SPDX-License-Identifier: Apache-2.0

// Package chain says what a chain is: the ordered members on one interface. It holds the order, positions,
// proceed-on sets, counters and validation, as pure functions on values; nothing here does I/O.
//
// It imports the standard library only, so that every other package can import it.
package chain

import (
	"slices"
	"strconv"
	"strings"
)

// MaxMembers is how many members a chain can have: the number of slot functions in bpf/dispatcher.c.
const MaxMembers = 64

// DefaultPriority is the priority of a member for which none was given, the same as libxdp's.
const DefaultPriority = 50

// Member is a program's place in a chain.
type Member struct {
	Program   string    `json:"program"`            // the program's name, unique in a chain
	Priority  int32     `json:"priority"`           // lower runs first
	ProceedOn ProceedOn `json:"proceed_on"`         // after these verdicts the next member runs
	Disabled  bool      `json:"disabled,omitempty"` // keeps its place, has no slot
}

// Chain is the ordered members on one interface. The order of Members is the order in which they run; it
// always agrees with the priorities, and among equal priorities it is as the users made it.
type Chain struct {
	Mode    Mode     `json:"mode"`
	Final   Verdict  `json:"final"`
	Members []Member `json:"members"`
}

// New returns a chain without members: mode Auto, final verdict Pass.
func New() Chain { return Chain{Mode: Auto, Final: Pass} }

// Index returns the place of a program among the members, or -1.
func (c Chain) Index(program string) int {
	return slices.IndexFunc(c.Members, func(m Member) bool { return m.Program == program })
}

// Clone returns a copy that shares no memory with c.
func (c Chain) Clone() Chain {
	c.Members = slices.Clone(c.Members)
	return c
}

// Equal tells whether both mean the same: mode, final verdict, and the same members in the same order.
func (c Chain) Equal(d Chain) bool {
	return c.Mode == d.Mode && c.Final == d.Final && slices.EqualFunc(c.Members, d.Members, func(a, b Member) bool {
		a.ProceedOn, b.ProceedOn = a.ProceedOn.normal(), b.ProceedOn.normal()
		return a == b
	})
}

// Enabled returns the members that get a slot, in the order of the slots.
func (c Chain) Enabled() []Member {
	enabled := make([]Member, 0, len(c.Members))
	for _, m := range c.Members {
		if !m.Disabled {
			enabled = append(enabled, m)
		}
	}
	return enabled
}

// Validate returns an error for what no chain can be: an unknown mode, a final verdict that the kernel does not
// know, more than MaxMembers members, a program twice or with an invalid name, an invalid proceed-on set, or
// members that are not sorted by priority.
func (c Chain) Validate() error {
	if !c.Mode.Valid() {
		return Errorf(InvalidArgument, Facts{"mode": printable(string(c.Mode))}, "unknown mode %q: use auto, native or generic", c.Mode)
	}
	if c.Final > Redirect {
		return Errorf(InvalidArgument, Facts{"verdict": c.Final.String()}, "final verdict %s: use aborted, drop, pass, tx or redirect", c.Final)
	}
	if len(c.Members) > MaxMembers {
		return errFull()
	}
	for i, m := range c.Members {
		if err := m.validate(); err != nil {
			return err
		}
		if c.Index(m.Program) != i {
			return Errorf(InvalidArgument, Facts{"program": m.Program}, "program %s is in the chain twice", m.Program)
		}
		if i > 0 && c.Members[i-1].Priority > m.Priority {
			before := c.Members[i-1]
			return Errorf(InvalidArgument, Facts{"program": m.Program, "before": before.Program},
				"program %s of priority %d is behind %s of priority %d: lower runs first", m.Program, m.Priority, before.Program, before.Priority)
		}
	}
	return nil
}

func (m Member) validate() error {
	if err := ValidName(m.Program); err != nil {
		return err
	}
	if !m.ProceedOn.Valid() {
		return errProceedOn(m.Program, m.ProceedOn)
	}
	return nil
}

// maxName is the longest name of a program, in bytes.
const maxName = 63

// ValidName returns an error unless name can be a program's: 1 to 63 of a-z A-Z 0-9 . _ -, the first a letter
// or digit.
func ValidName(name string) error {
	valid := len(name) >= 1 && len(name) <= maxName && !strings.ContainsRune("._-", rune(name[0]))
	for i := 0; valid && i < len(name); i++ {
		b := name[i]
		valid = 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '.' || b == '_' || b == '-'
	}
	if valid {
		return nil
	}
	return Errorf(InvalidArgument, Facts{"program": printable(name)},
		"program name %q: use 1 to %d of a-z A-Z 0-9 . _ -, beginning with a letter or digit", printable(name), maxName)
}

// printable makes text from outside fit for a fact: valid UTF-8 and not much longer than a name.
func printable(s string) string {
	if len(s) > maxName {
		s = s[:maxName] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

func errFull() error {
	return Errorf(Full, Facts{"limit": strconv.Itoa(MaxMembers)}, "the chain has %d members already, which is the limit", MaxMembers)
}

func errProceedOn(program string, p ProceedOn) error {
	return Errorf(InvalidArgument, Facts{"program": program},
		"proceed-on set %s of program %s: use aborted, drop, pass, tx or redirect", p, program)
}
