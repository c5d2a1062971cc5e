// SPDX-License-Identifier: Apache-2.0

package chain

import "strconv"

// Draft is a member whose priority may be left to its place.
type Draft struct {
	Member          // what its Priority says does not count
	Priority *int32 // nil: that of the member before it
}

// Arrange returns the members in exactly that order. A member without a priority takes that of the one before
// it; those before the first priority that is given take DefaultPriority, or that first one if it is lower.
//
// Errors: PositionConflict if a priority is lower than one given before it, else those of Chain.Validate.
func Arrange(drafts []Draft) ([]Member, error) {
	c := New()
	c.Members = make([]Member, len(drafts))
	for i, d := range drafts {
		c.Members[i] = d.Member
		c.Members[i].Priority = 0 // so that the order cannot be wrong yet
		c.Members[i].ProceedOn = d.ProceedOn.normal()
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	priority, giver := leading(drafts), Draft{}
	for i, d := range drafts {
		if d.Priority != nil {
			if *d.Priority < priority {
				return nil, errFalls(giver, d)
			}
			priority, giver = *d.Priority, d
		}
		c.Members[i].Priority = priority
	}
	return c.Members, nil
}

// leading returns the priority of the members before the first one that is given one, which has no lower one.
func leading(drafts []Draft) int32 {
	for _, d := range drafts {
		if d.Priority != nil {
			return min(DefaultPriority, *d.Priority)
		}
	}
	return DefaultPriority
}

func errFalls(before, after Draft) error {
	return Errorf(PositionConflict, Facts{
		"program": after.Program, "priority": strconv.Itoa(int(*after.Priority)), "position": Position{After: before.Program}.String(),
	}, "program %s cannot be behind %s: its priority %d is lower than %d, and lower runs first; give another priority or order, or none",
		after.Program, before.Program, *after.Priority, *before.Priority)
}
