// SPDX-License-Identifier: Apache-2.0

package l4lb

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// Table returns a value for the map tables: for each slot the id of a backend, or 0 if there are none.
// backends has a name for each id; a name must stay with its backend and be unique.
//
// It is Maglev's table: every backend gets almost the same number of slots, and hardly any slot changes hands
// when another backend comes or goes. It depends on the names alone, so that balancers with the same backends
// agree without talking to each other.
func Table(backends map[uint32]string) ([]uint32, error) {
	table := make([]uint32, TableSize)
	queue, err := preferences(backends)
	if err != nil || len(queue) == 0 {
		return table, err
	}
	for filled := 0; filled < TableSize; filled++ {
		p := &queue[filled%len(queue)]
		for table[p.next] != 0 {
			p.advance()
		}
		table[p.next] = p.id
	}
	return table, nil
}

// preference is a backend's walk through all slots, in an order that is its own.
type preference struct {
	id         uint32
	next, skip uint64
}

// advance steps to the next slot; TableSize is a prime, so any skip leads through all of them.
func (p *preference) advance() { p.next = (p.next + p.skip) % TableSize }

// preferences returns the backends' walks, sorted by name.
func preferences(backends map[uint32]string) ([]preference, error) {
	if len(backends) >= MaxBackends {
		return nil, fmt.Errorf("make a table for %d backends: at most %d fit", len(backends), MaxBackends-1)
	}
	byName := make(map[string]uint32, len(backends))
	for id, name := range backends {
		if id == 0 || id >= MaxBackends {
			return nil, fmt.Errorf("put backend %q in a table: its id %d is not in 1 to %d", name, id, MaxBackends-1)
		}
		if other, ok := byName[name]; ok {
			return nil, fmt.Errorf("put backends %d and %d in a table: both are named %q", min(id, other), max(id, other), name)
		}
		byName[name] = id
	}
	var all []preference
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		sum := sha256.Sum256([]byte(name))
		all = append(all, preference{
			id:   byName[name],
			next: binary.BigEndian.Uint64(sum[:]) % TableSize,
			skip: binary.BigEndian.Uint64(sum[8:])%(TableSize-1) + 1,
		})
	}
	return all, nil
}
