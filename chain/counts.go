// SPDX-License-Identifier: Apache-2.0

package chain

// Classes of a packet's last return code, the columns of Exits.
const (
	ClassOther = 5 // a return code that the kernel does not know; it drops such packets like Aborted
	Classes    = 8 // verdicts 0 to 4, ClassOther, and two that are not used
)

// Exits counts the packets of one revision: by the slot at which they left the chain and the class of the
// verdict that they left with. Slot n of a revision with n slots is the end of the chain: there packets
// have passed all members and got the final verdict.
type Exits [MaxMembers + 1][Classes]uint64

// Add adds the counts of another revision with the same slots, or of another CPU.
func (e *Exits) Add(f *Exits) {
	for i := range e {
		for class := range e[i] {
			e[i][class] += f[i][class]
		}
	}
}

// Counts are the packets of one member.
type Counts struct {
	Seen     uint64          `json:"seen"`      // that reached it
	PassedOn uint64          `json:"passed_on"` // that went on to the next member or the end of the chain
	Ended    [Classes]uint64 `json:"ended"`     // that left the chain here, by class of the verdict
}

// Add adds the counts of the same member in another revision.
func (c *Counts) Add(d Counts) {
	c.Seen += d.Seen
	c.PassedOn += d.PassedOn
	for class := range c.Ended {
		c.Ended[class] += d.Ended[class]
	}
}

// Member returns what slot i of a revision with n slots saw; zero counts if there is no such slot.
func (e *Exits) Member(i, n int) Counts {
	if i < 0 || i >= n || n > MaxMembers {
		return Counts{}
	}
	passed := e.sum(i+1, n)
	return Counts{Seen: passed + e.sum(i, i), PassedOn: passed, Ended: e[i]}
}

// End returns how many packets got to the end of a chain of n slots, and so the final verdict.
func (e *Exits) End(n int) uint64 { return e.sum(n, n) }

// Packets returns how many packets went through a revision with n slots.
func (e *Exits) Packets(n int) uint64 { return e.sum(0, n) }

// sum adds up the rows from first to last, as far as there are such.
func (e *Exits) sum(first, last int) uint64 {
	var sum uint64
	for i := max(first, 0); i <= min(last, MaxMembers); i++ {
		for _, n := range e[i] {
			sum += n
		}
	}
	return sum
}
