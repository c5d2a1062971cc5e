// SPDX-License-Identifier: Apache-2.0

package store

import bolt "go.etcd.io/bbolt"

// leasesIn returns the leases by id. A token that two have is ErrInvalid.
func leasesIn(t *bolt.Tx) (map[uint64]Lease, error) {
	leases, tokens := map[uint64]Lease{}, map[string]uint64{}
	err := each(t, bucketLeases, func(_ string, l Lease) error {
		if other, taken := tokens[l.Token]; taken {
			return invalid("leases %d and %d have the same token", other, l.ID)
		}
		leases[l.ID], tokens[l.Token] = l, l.ID
		return nil
	})
	return leases, err
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
