// SPDX-License-Identifier: Apache-2.0

package store

// leases returns which leases there are then, by id. A token that two have is ErrInvalid.
func (t *tx) leases(next records) (map[uint64]bool, error) {
	all, err := t.shelves.leases.all(bucketLeases, next[bucketLeases])
	if err != nil {
		return nil, err
	}
	leases, tokens := make(map[uint64]bool, len(all)), make(map[string]uint64, len(all))
	for _, l := range all {
		if other, taken := tokens[l.Token]; taken {
			return nil, invalid("leases %d and %d have the same token", other, l.ID)
		}
		leases[l.ID], tokens[l.Token] = true, l.ID
	}
	return leases, nil
}

func (t *tx) applyLeases(c Change) error {
	for _, id := range c.DeleteLeases {
		if err := t.delete(bucketLeases, idKey(id)); err != nil {
			return err
		}
	}
	for _, l := range c.PutLeases {
		if err := t.putJSON(bucketLeases, idKey(l.ID), l); err != nil {
			return err
		}
		if err := t.raise(bucketMeta, keyLeaseID, l.ID); err != nil {
			return err
		}
	}
	return nil
}
