// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"math"
	"slices"
	"strconv"
)

// Insert returns the chain with one more member. The priority is DefaultPriority, or what the position needs, if
// priority is nil; what m.Priority says does not count. Without a position the member comes behind those of equal priority.
// A position takes the priority that makes it true: first and last that of the first and last member,
// before and after that of the member they name. A priority given with a position must be possible there.
//
// Errors: InvalidArgument, MemberExists, MemberNotFound for the member that the position names, Full,
// PositionConflict.
func (c Chain) Insert(m Member, priority *int32, p Position) (Chain, error) {
	if err := m.validate(); err != nil {
		return Chain{}, err
	}
	if c.Index(m.Program) >= 0 {
		return Chain{}, Errorf(MemberExists, Facts{"program": m.Program}, "program %s is in the chain already", m.Program)
	}
	if len(c.Members) >= MaxMembers {
		return Chain{}, errFull()
	}
	return c.insert(m, priority, p)
}

// Remove returns the chain without the member. Error: MemberNotFound.
func (c Chain) Remove(program string) (Chain, error) {
	i := c.Index(program)
	if i < 0 {
		return Chain{}, errNotMember(program)
	}
	return c.without(i), nil
}

// Change is what is to change of one member; what is nil or zero stays.
type Change struct {
	Program   string
	Priority  *int32 // alone: the member moves behind those of equal priority, unless it has that priority already
	Position  Position
	ProceedOn *ProceedOn
	Enabled   *bool
}

// Update returns the chain with the changes made, each to what those before it made. Positions and priorities
// mean the same as for Insert, among the other members; a member that is asked to be first (or last) and is so
// keeps its priority.
//
// Errors: InvalidArgument, MemberNotFound for a member or one that a position names, PositionConflict.
func (c Chain) Update(changes []Change) (Chain, error) {
	next := c.Clone()
	for _, change := range changes {
		var err error
		if next, err = next.update(change); err != nil {
			return Chain{}, err
		}
	}
	return next, nil
}

func (c Chain) update(change Change) (Chain, error) {
	i := c.Index(change.Program)
	if i < 0 {
		return Chain{}, errNotMember(change.Program)
	}
	m := c.Members[i]
	if change.ProceedOn != nil {
		if !change.ProceedOn.Valid() {
			return Chain{}, errProceedOn(m.Program, *change.ProceedOn)
		}
		m.ProceedOn = change.ProceedOn.normal()
	}
	if change.Enabled != nil {
		m.Disabled = !*change.Enabled
	}
	if err := change.Position.Validate(); err != nil {
		return Chain{}, err
	}
	if c.stays(i, change) {
		next := c.Clone()
		next.Members[i] = m
		return next, nil
	}
	if change.Position.anchor() == m.Program {
		return Chain{}, Errorf(PositionConflict, Facts{"program": m.Program, "position": change.Position.String()},
			"program %s cannot be placed %s: name another member", m.Program, change.Position)
	}
	return c.without(i).insert(m, change.Priority, change.Position)
}

// stays tells whether the change leaves member i where it is, with the priority that it has.
func (c Chain) stays(i int, change Change) bool {
	p := change.Position
	if change.Priority != nil {
		return p.IsZero() && *change.Priority == c.Members[i].Priority
	}
	return p.IsZero() || p.First && i == 0 || p.Last && i == len(c.Members)-1
}

// insert puts m, which is not a member, where priority and position say.
func (c Chain) insert(m Member, priority *int32, p Position) (Chain, error) {
	if err := p.Validate(); err != nil {
		return Chain{}, err
	}
	m.ProceedOn = m.ProceedOn.normal()
	if p.IsZero() {
		m.Priority = DefaultPriority
		if priority != nil {
			m.Priority = *priority
		}
		behind := func(o Member) bool { return o.Priority > m.Priority }
		i := slices.IndexFunc(c.Members, behind)
		if i < 0 {
			i = len(c.Members)
		}
		return c.with(i, m), nil
	}
	i, needed, err := c.resolve(p)
	if err != nil {
		return Chain{}, err
	}
	m.Priority = needed
	if priority != nil {
		m.Priority = *priority
		low, high := c.between(i)
		if m.Priority < low || m.Priority > high {
			return Chain{}, Errorf(PositionConflict,
				Facts{"program": m.Program, "priority": strconv.Itoa(int(m.Priority)), "position": p.String()},
				"program %s cannot be %s with priority %d: its neighbours there leave %d to %d; give one of the two, or move the neighbours",
				m.Program, p, m.Priority, low, high)
		}
	}
	return c.with(i, m), nil
}

// resolve returns the index at which a new member would be at the position, and the priority that it takes there.
func (c Chain) resolve(p Position) (index int, priority int32, err error) {
	last := len(c.Members) - 1
	if p.First || p.Last {
		switch {
		case last < 0:
			return 0, DefaultPriority, nil
		case p.First:
			return 0, c.Members[0].Priority, nil
		}
		return last + 1, c.Members[last].Priority, nil
	}
	i := c.Index(p.anchor())
	if i < 0 {
		return 0, 0, errNotMember(p.anchor())
	}
	priority = c.Members[i].Priority
	if p.After != "" {
		i++
	}
	return i, priority, nil
}

// between returns the lowest and highest priority that a new member at index i can have.
func (c Chain) between(i int) (low, high int32) {
	low, high = math.MinInt32, math.MaxInt32
	if i > 0 {
		low = c.Members[i-1].Priority
	}
	if i < len(c.Members) {
		high = c.Members[i].Priority
	}
	return low, high
}

func (c Chain) with(i int, m Member) Chain {
	c.Members = slices.Insert(slices.Clone(c.Members), i, m)
	return c
}

func (c Chain) without(i int) Chain {
	c.Members = slices.Delete(slices.Clone(c.Members), i, i+1)
	return c
}

func errNotMember(program string) error {
	return Errorf(MemberNotFound, Facts{"program": printable(program)}, "program %s is not in the chain", printable(program))
}
