// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"slices"
	"strings"
)

// Content is everything in a store but its objects.
type Content struct {
	BootID        string            `json:"boot_id,omitempty"`
	Programs      []Program         `json:"programs"`
	Chains        []Chain           `json:"chains"`
	History       []Entry           `json:"history"`
	Pending       []Pending         `json:"pending"`
	Leases        []Lease           `json:"leases"`
	Revisions     map[string]uint64 `json:"revisions"`      // by interface: the highest that was given
	RevisionFloor uint64            `json:"revision_floor"` // the same for all other interfaces together
	LastProgramID uint64            `json:"last_program_id"`
	LastPendingID uint64            `json:"last_pending_id"`
	LastLeaseID   uint64            `json:"last_lease_id"`
	Lost          []Lost            `json:"lost,omitempty"` // what was in the store and is not in here, or may be wrong
}

// Lost is what could not be taken from a damaged store.
type Lost struct {
	What   string `json:"what"`             // such as "chain eth0"
	Why    string `json:"why"`              //
	Record string `json:"record,omitempty"` // as far as it can be read, for people
}

// sifter takes from an image what fits together.
type sifter struct {
	*image
	Content
	names map[string]Program
	ids   map[uint64]bool
	held  map[uint64]bool // leases
}

// intact returns what can be read and fits together: a Save would take it. All else is lost, as a chain is without one
// of its members: what would be left of it is not what anybody wanted.
func (i *image) intact() Content {
	s := &sifter{image: i, names: map[string]Program{}, ids: map[uint64]bool{}, held: map[uint64]bool{}}
	s.Revisions = map[string]uint64{}
	for _, err := range i.damage {
		s.lose("pages or records", err, nil)
	}
	s.BootID = string(i.records[bucketMeta][keyBootID])
	for key, to := range map[string]*uint64{
		keyProgramID: &s.LastProgramID, keyPendingID: &s.LastPendingID, keyLeaseID: &s.LastLeaseID, keyFloor: &s.RevisionFloor,
	} {
		*to = s.number(bucketMeta, key)
	}
	for iface := range i.records[bucketRevisions] {
		if n := s.number(bucketRevisions, iface); n > 0 && validInterface(iface) == nil {
			s.Revisions[iface] = n
		}
	}
	tokens := map[string]bool{}
	sift(s, bucketLeases, "lease", func(key string, l Lease) error {
		if err := s.named(key, idKey(l.ID), l.validate()); err != nil {
			return err
		}
		if tokens[l.Token] {
			return fmt.Errorf("another lease has the same token")
		}
		tokens[l.Token], s.held[l.ID] = true, true
		s.Leases = append(s.Leases, l)
		return nil
	})
	sift(s, bucketPrograms, "program", s.program)
	sift(s, bucketHistory, "history", func(key string, e Entry) error {
		if err := s.named(key, entryKey(e.Interface, e.Revision), e.validate()); err != nil {
			return err
		}
		if err := s.kept(e.Programs); err != nil {
			return err
		}
		s.History = append(s.History, e)
		return nil
	})
	sift(s, bucketChains, "chain", s.chain)
	sift(s, bucketPending, "pending change", func(key string, p Pending) error {
		if err := s.named(key, idKey(p.ID), p.validate()); err != nil {
			return err
		}
		if err := s.kept(p.Programs); err != nil {
			return err
		}
		if found := conflicts(s.names, append(slices.Clone(s.Pending), p)); len(found) > 0 {
			return found[0]
		}
		s.Pending = append(s.Pending, p)
		return nil
	})
	return s.Content
}

// sift offers the records of a bucket, and notes those that are not taken.
func sift[T any](s *sifter, bucket, noun string, take func(key string, value T) error) {
	lose := func(key string, err error) {
		name, rest, _ := strings.Cut(key, "\x00")
		if name == "" || rest != "" {
			name = fmt.Sprintf("%q", key)
		}
		s.lose(noun+" "+name, err, s.records[bucket][key])
	}
	eachOf(s.records, bucket, func(key string, value T) {
		if err := take(key, value); err != nil {
			lose(key, err)
		}
	}, lose)
}

func (s *sifter) lose(what string, err error, record []byte) {
	s.Lost = append(s.Lost, Lost{What: what, Why: err.Error(), Record: strings.ToValidUTF8(string(record), "?")})
}

// number returns a number, 0 for one that is lost.
func (s *sifter) number(bucket, key string) uint64 {
	return numberOf(s.records, bucket, key, func(err error) { s.lose("number "+key, err, s.records[bucket][key]) })
}

// named returns why a record cannot be that of its key.
func (s *sifter) named(key, want string, invalid error) error {
	if invalid == nil && key != want {
		return fmt.Errorf("it is of %q", want)
	}
	return invalid
}

// kept returns why the objects of programs are not there.
func (s *sifter) kept(programs []Program) error {
	for _, p := range programs {
		switch size, found := s.objects[p.Object]; {
		case !found:
			return fmt.Errorf("the object of program %s, %s, is lost", p.Name, p.Object)
		case size != p.Size:
			return fmt.Errorf("the object of program %s has %d bytes, not %d", p.Name, size, p.Size)
		}
	}
	return nil
}

func (s *sifter) program(name string, p Program) error {
	if err := s.named(name, p.Name, p.validate()); err != nil {
		return err
	}
	switch {
	case p.Lease != 0 && !s.held[p.Lease]:
		return fmt.Errorf("its lease %d is lost", p.Lease)
	case s.ids[p.ID]:
		return fmt.Errorf("another program has the same id %d", p.ID)
	}
	if err := s.kept([]Program{p}); err != nil {
		return err
	}
	s.names[name], s.ids[p.ID] = p, true
	s.Programs = append(s.Programs, p)
	return nil
}

func (s *sifter) chain(name string, ch Chain) error {
	if err := s.named(name, ch.Interface, ch.validate()); err != nil {
		return err
	}
	for _, m := range ch.Chain.Members {
		if _, exists := s.names[m.Program]; !exists {
			return fmt.Errorf("its program %s is lost", m.Program)
		}
	}
	c := &checker{names: s.names}
	if len(ch.Revisions) > 0 {
		c.slots(name, ch)
	}
	if len(c.problems) > 0 {
		return c.problems[0]
	}
	s.Chains = append(s.Chains, ch)
	return nil
}

// objectNames returns the sha256 of each object that something names.
func (c *Content) objectNames() map[string]bool {
	named := map[string]bool{}
	add := func(programs []Program) {
		for _, p := range programs {
			named[p.Object] = true
		}
	}
	add(c.Programs)
	for _, e := range c.History {
		add(e.Programs)
	}
	for _, p := range c.Pending {
		add(p.Programs)
	}
	return named
}
