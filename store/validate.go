// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/xdpd/xdpd/chain"
)

// What Save refuses to take more of.
const (
	MaxText     = 255  // bytes of What, of Comment, and of each name
	MaxDiff     = 256  // lines
	MaxDiffLine = 512  // bytes
	MaxPatterns = 64   // of a program
	MaxExcept   = 1024 // interfaces of a pattern

	maxSettings = 1024     // globals, and maps that are given a size
	maxGlobal   = 64 << 10 // bytes of a global's value
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// validate checks all that can be told without the store.
func (c Change) validate() error {
	if c.HistoryLimit < 0 {
		return invalid("a history of %d entries", c.HistoryLimit)
	}
	for sha, object := range c.Objects {
		if len(object) == 0 || hashOf(object) != sha {
			return invalid("object %q: %d bytes with the sha256 %s", sha, len(object), hashOf(object))
		}
	}
	if err := validateAll("program", c.PutPrograms, func(p Program) string { return p.Name }, c.DeletePrograms); err != nil {
		return err
	}
	if err := validateAll("chain", c.PutChains, func(ch Chain) string { return ch.Interface }, c.DeleteChains); err != nil {
		return err
	}
	if err := validateAll("history of", c.PutHistory, Entry.key, c.DeleteHistory); err != nil {
		return err
	}
	if err := validateAll("lease", c.PutLeases, func(l Lease) uint64 { return l.ID }, c.DeleteLeases); err != nil {
		return err
	}
	if err := validateRenames(c.RenameChains); err != nil {
		return err
	}
	return validateAll("pending change", c.PutPending, func(p Pending) uint64 { return p.ID }, c.DeletePending)
}

func validateRenames(names map[string]string) error {
	old := map[string]string{} // by new name
	for from, to := range names {
		if err := errors.Join(validInterface(from), validInterface(to)); err != nil {
			return err
		}
		if other, taken := old[to]; taken {
			return invalid("the chains of %s and %s cannot both become that of %s", other, from, to)
		}
		old[to] = from
	}
	return nil
}

// validateAll checks records, and that none is put twice, or put and deleted.
func validateAll[R interface{ validate() error }, K comparable](noun string, put []R, key func(R) K, deleted []K) error {
	seen := map[K]bool{}
	for _, record := range put {
		if err := record.validate(); err != nil {
			return err
		}
		k := key(record)
		if seen[k] {
			return invalid("%s %v is put twice", noun, k)
		}
		if slices.Contains(deleted, k) {
			return invalid("%s %v is put and deleted", noun, k)
		}
		seen[k] = true
	}
	return nil
}

func (p Program) validate() error {
	if err := chain.ValidName(p.Name); err != nil {
		return invalid("%w", err)
	}
	switch {
	case p.ID == 0:
		return invalid("program %s has no id", p.Name)
	case p.Function == "":
		return invalid("program %s has no function", p.Name)
	case !isHash(p.Object):
		return invalid("program %s: object %q is not a sha256 in hex", p.Name, p.Object)
	case p.Lifetime != "daemon" && p.Lifetime != "persistent" && p.Lifetime != "lease":
		return invalid("program %s: unknown lifetime %q", p.Name, p.Lifetime)
	case (p.Lifetime == "lease") != (p.Lease != 0):
		return invalid("program %s: lifetime %s with the lease %d", p.Name, p.Lifetime, p.Lease)
	case len(p.Patterns) > MaxPatterns:
		return invalid("program %s: %d patterns, the limit is %d", p.Name, len(p.Patterns), MaxPatterns)
	}
	if err := validSettings(p.Settings); err != nil {
		return invalid("settings of program %s: %w", p.Name, err)
	}
	for i, q := range p.Patterns {
		if err := q.validate(); err != nil {
			return invalid("program %s: %w", p.Name, err)
		}
		if slices.ContainsFunc(p.Patterns[:i], func(o Pattern) bool { return o.Glob == q.Glob }) {
			return invalid("program %s: pattern %s twice", p.Name, q.Glob)
		}
	}
	return nil
}

func (p Pattern) validate() error {
	if _, _, err := chain.ParseInterface(p.Glob); err != nil {
		return err
	}
	switch {
	case !chain.IsPattern(p.Glob) || !utf8.ValidString(p.Glob):
		return fmt.Errorf("pattern %.80q", p.Glob)
	case p.ProceedOn != nil && !p.ProceedOn.Valid():
		return fmt.Errorf("pattern %s: proceeds on %v", p.Glob, *p.ProceedOn)
	case p.Mode != "" && !p.Mode.Valid():
		return fmt.Errorf("pattern %s: unknown mode %q", p.Glob, p.Mode)
	case len(p.Except) > MaxExcept:
		return fmt.Errorf("pattern %s: %d interfaces are excepted, the limit is %d", p.Glob, len(p.Except), MaxExcept)
	}
	if err := p.Position.Validate(); err != nil {
		return fmt.Errorf("pattern %s: %w", p.Glob, err)
	}
	for _, name := range []string{p.Position.Before, p.Position.After} {
		if err := chain.ValidName(name); name != "" && err != nil {
			return fmt.Errorf("pattern %s: %w", p.Glob, err)
		}
	}
	for i, name := range p.Except {
		if err := validInterface(name); err != nil {
			return fmt.Errorf("pattern %s: %w", p.Glob, err)
		}
		if i > 0 && p.Except[i-1] >= name {
			return fmt.Errorf("pattern %s: the excepted interface %s is twice in it, or not in order", p.Glob, name)
		}
	}
	return nil
}

func (l Lease) validate() error {
	switch {
	case l.ID == 0:
		return invalid("a lease has no id")
	case l.Token == "" || !isText(l.Token, MaxText):
		return invalid("lease %d: a token of %d bytes", l.ID, len(l.Token))
	case l.Grace < 0:
		return invalid("lease %d: a grace of %v", l.ID, l.Grace)
	}
	return nil
}

func validSettings(s chain.Settings) error {
	if len(s.Globals) > maxSettings || len(s.MaxEntries) > maxSettings {
		return fmt.Errorf("%d globals and %d sizes of maps, the limit is %d", len(s.Globals), len(s.MaxEntries), maxSettings)
	}
	for name, value := range s.Globals {
		if name == "" || !isText(name, MaxText) || !isText(value, maxGlobal) {
			return fmt.Errorf("global %.80q with %d bytes", name, len(value))
		}
	}
	for name := range s.MaxEntries {
		if name == "" || !isText(name, MaxText) {
			return fmt.Errorf("map %.80q", name)
		}
	}
	if !isText(s.MapGroup, MaxText) {
		return fmt.Errorf("group %.80q", s.MapGroup)
	}
	if s.ShareMapsFrom == "" {
		return nil
	}
	return chain.ValidName(s.ShareMapsFrom)
}

// isText tells whether JSON can hold s as it is, and s is not longer than limit.
func isText(s string, limit int) bool { return len(s) <= limit && utf8.ValidString(s) }

// validInterface returns an error for what is no reference of one interface, and what JSON cannot hold.
func validInterface(name string) error {
	if _, _, err := chain.ParseInterface(name); err != nil {
		return invalid("%w", err)
	}
	if chain.IsPattern(name) || !isText(name, MaxText) {
		return invalid("%.80q is not the name of one interface", name)
	}
	return nil
}

func (c Chain) validate() error {
	if err := validInterface(c.Interface); err != nil {
		return err
	}
	if err := c.Chain.Validate(); err != nil {
		return invalid("chain of %s: %w", c.Interface, err)
	}
	if c.Former != "" {
		if err := validInterface(c.Former); err != nil {
			return fmt.Errorf("chain of %s: it was called so before: %w", c.Interface, err)
		}
	}
	for i, r := range c.Revisions {
		if len(r.Slots) > chain.MaxMembers {
			return invalid("chain of %s: revision %d has %d slots", c.Interface, r.Number, len(r.Slots))
		}
		if slices.ContainsFunc(c.Revisions[:i], func(o Revision) bool { return o.Number == r.Number }) {
			return invalid("chain of %s: revision %d twice", c.Interface, r.Number)
		}
	}
	if n := len(c.Revisions); n > 0 && c.Revisions[n-1].Number != c.Revision {
		return invalid("chain of %s: the last revision is %d, not the intended %d", c.Interface, c.Revisions[n-1].Number, c.Revision)
	}
	return nil
}

func (e Entry) validate() error {
	if err := validInterface(e.Interface); err != nil {
		return err
	}
	if e.Revision == 0 {
		return invalid("history of %s: an entry without revision", e.Interface)
	}
	if err := e.Chain.Validate(); err != nil {
		return invalid("history of %v: %w", e.key(), err)
	}
	if err := validatePrograms(e.Programs); err != nil {
		return fmt.Errorf("history of %v: %w", e.key(), err)
	}
	for _, p := range e.Programs {
		if e.Chain.Index(p.Name) < 0 {
			return invalid("history of %v: program %s is not a member of the chain", e.key(), p.Name)
		}
	}
	if len(e.Programs) != len(e.Chain.Members) {
		return invalid("history of %v: %d programs for %d members", e.key(), len(e.Programs), len(e.Chain.Members))
	}
	if !isText(e.What, MaxText) || !isText(e.Comment, MaxText) {
		return invalid("history of %v: %.80q with the comment %.80q", e.key(), e.What, e.Comment)
	}
	if len(e.Diff) > MaxDiff || slices.ContainsFunc(e.Diff, func(line string) bool { return !isText(line, MaxDiffLine) }) {
		return invalid("history of %v: a diff of %d lines, or too long a line", e.key(), len(e.Diff))
	}
	return nil
}

func (p Pending) validate() error {
	switch {
	case p.ID == 0:
		return invalid("a pending change has no id")
	case p.Deadline <= 0 || p.BootID == "" || !isText(p.BootID, MaxText):
		return invalid("pending change %d: deadline %v of boot %.80q", p.ID, p.Deadline, p.BootID)
	case !isText(p.What, MaxText):
		return invalid("pending change %d: %.80q", p.ID, p.What)
	}
	if err := validatePrograms(p.Programs); err != nil {
		return fmt.Errorf("pending change %d: %w", p.ID, err)
	}
	for i, name := range p.Added {
		if err := chain.ValidName(name); err != nil {
			return invalid("pending change %d: %w", p.ID, err)
		}
		if slices.Contains(p.Added[:i], name) || slices.ContainsFunc(p.Programs, func(q Program) bool { return q.Name == name }) {
			return invalid("pending change %d: program %s twice", p.ID, name)
		}
	}
	for i, ch := range p.Chains {
		if err := validInterface(ch.Interface); err != nil {
			return fmt.Errorf("pending change %d: %w", p.ID, err)
		}
		if slices.ContainsFunc(p.Chains[:i], func(o PendingChain) bool { return o.Interface == ch.Interface }) {
			return invalid("pending change %d: interface %s twice", p.ID, ch.Interface)
		}
		if ch.Before == nil {
			continue
		}
		if err := ch.Before.Validate(); err != nil {
			return invalid("pending change %d: chain of %s: %w", p.ID, ch.Interface, err)
		}
	}
	return nil
}

// validatePrograms checks programs that another record keeps.
func validatePrograms(programs []Program) error {
	for i, p := range programs {
		if err := p.validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(programs[:i], func(o Program) bool { return o.Name == p.Name }) {
			return invalid("program %s twice", p.Name)
		}
	}
	return nil
}
