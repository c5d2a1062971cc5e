// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Pending returns the pending changes, sorted by id.
func (s *Store) Pending() ([]Pending, error) { return all[Pending](s, bucketPending) }

func pendingIn(t *bolt.Tx) ([]Pending, error) {
	var pending []Pending
	err := each(t, bucketPending, func(_ string, p Pending) error {
		pending = append(pending, p)
		return nil
	})
	return pending, err
}

func (t *tx) applyPending(c Change) error {
	for _, id := range c.DeletePending {
		if err := drop[Pending](t, bucketPending, idKey(id)); err != nil {
			return err
		}
	}
	for _, p := range c.PutPending {
		if err := keep(t, bucketPending, idKey(p.ID), p); err != nil {
			return err
		}
		if err := t.raise(bucketMeta, keyPendingID, p.ID); err != nil {
			return err
		}
	}
	return nil
}

// conflicts returns why pending changes cannot all be undone: an interface or a program is in two of them, ids are
// not unique among the programs that exist and those that are kept, or a chain would come back without a member.
func conflicts(programs map[string]Program, pending []Pending) []error {
	var found []error
	ids := map[uint64]Program{}
	for _, p := range programs {
		ids[p.ID] = p
	}
	interfaces, names := map[string]uint64{}, map[string]uint64{}
	claim := func(of map[string]uint64, noun, name string, id uint64) {
		if other, taken := of[name]; taken {
			found = append(found, fmt.Errorf("pending changes %d and %d both change the %s %s", other, id, noun, name))
		}
		of[name] = id
	}
	for _, c := range pending {
		kept := map[string]bool{}
		for _, p := range c.Programs {
			claim(names, "program", p.Name, c.ID)
			if o, taken := ids[p.ID]; taken && !p.loadsAs(o) {
				found = append(found, fmt.Errorf("program %s and program %s, which pending change %d keeps, have the same id %d", o.Name, p.Name, c.ID, p.ID))
			}
			ids[p.ID], kept[p.Name] = p, true
		}
		for _, name := range c.Added {
			claim(names, "program", name, c.ID)
		}
		for _, ch := range c.Chains {
			claim(interfaces, "interface", ch.Interface, c.ID)
			if ch.Before == nil {
				continue
			}
			for _, m := range ch.Before.Members {
				if _, exists := programs[m.Program]; !exists && !kept[m.Program] {
					found = append(found, fmt.Errorf("pending change %d would bring the program %s back on %s, but it neither exists nor is kept", c.ID, m.Program, ch.Interface))
				}
			}
		}
	}
	return found
}

// loadsAs tells whether one set of pins serves both: where they differ, it is not in what is loaded.
func (p Program) loadsAs(q Program) bool {
	return p.Name == q.Name && p.Function == q.Function && p.Object == q.Object && p.Settings.Equal(q.Settings)
}
