// SPDX-License-Identifier: Apache-2.0

package chain

// Position is a place relative to the other members. At most one field is set; none: by priority alone.
type Position struct {
	First, Last   bool   // before, after all others
	Before, After string // directly before, after the member of this program
}

// IsZero tells whether no position is given.
func (p Position) IsZero() bool { return p == Position{} }

// Validate returns an error if more than one field is set.
func (p Position) Validate() error {
	set := 0
	for _, given := range []bool{p.First, p.Last, p.Before != "", p.After != ""} {
		if given {
			set++
		}
	}
	if set > 1 {
		return Errorf(InvalidArgument, nil, "more than one position: give one of first, last, before and after")
	}
	return nil
}

// String returns "first", "last", "before x", "after x", or "" for none.
func (p Position) String() string {
	switch {
	case p.First:
		return "first"
	case p.Last:
		return "last"
	case p.Before != "":
		return "before " + printable(p.Before)
	case p.After != "":
		return "after " + printable(p.After)
	}
	return ""
}

// anchor returns the program that the position is relative to, or "".
func (p Position) anchor() string {
	if p.Before != "" {
		return p.Before
	}
	return p.After
}
