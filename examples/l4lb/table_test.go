// SPDX-License-Identifier: Apache-2.0

package l4lb

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// backends returns n of them, with ids from 1.
func backends(n int) map[uint32]string {
	m := make(map[uint32]string, n)
	for i := 1; i <= n; i++ {
		m[uint32(i)] = fmt.Sprintf("10.0.%d.%d", i/256, i%256)
	}
	return m
}

func table(t *testing.T, m map[uint32]string) []uint32 {
	t.Helper()
	tab, err := Table(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(tab) != TableSize {
		t.Fatalf("table has %d slots, want %d", len(tab), TableSize)
	}
	return tab
}

func TestTableIsEven(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 100, MaxBackends - 1} {
		count := map[uint32]int{}
		for _, id := range table(t, backends(n)) {
			count[id]++
		}
		if len(count) != n || count[0] != 0 {
			t.Fatalf("%d backends: %d have slots, %d slots have none", n, len(count), count[0])
		}
		counts := slices.Collect(maps.Values(count))
		if least, most := slices.Min(counts), slices.Max(counts); most-least > 1 {
			t.Errorf("%d backends: between %d and %d slots each", n, least, most)
		}
	}
}

func TestTableWithoutBackends(t *testing.T) {
	for slot, id := range table(t, nil) {
		if id != 0 {
			t.Fatalf("slot %d has backend %d", slot, id)
		}
	}
}

// TestTableDisruption takes each of 20 backends away in turn and counts the slots of others that move.
func TestTableDisruption(t *testing.T) {
	const n = 20
	before := table(t, backends(n))
	for gone := uint32(1); gone <= n; gone++ {
		left := backends(n)
		delete(left, gone)
		after := table(t, left)
		moved := 0
		for slot := range before {
			if before[slot] != gone && before[slot] != after[slot] {
				moved++
			}
			if after[slot] == gone {
				t.Fatalf("without backend %d: slot %d still has it", gone, slot)
			}
		}
		if limit := TableSize / 25; moved > limit {
			t.Errorf("without backend %d: %d slots of others moved, want at most %d", gone, moved, limit)
		}
	}
}

func TestTableDependsOnNamesOnly(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	tables := make([][]string, 0, 2)
	for _, ids := range [][]uint32{{1, 2, 3, 4}, {9, 7, 1000, 3}} {
		m := map[uint32]string{}
		for i, id := range ids {
			m[id] = names[i]
		}
		var slots []string
		for _, id := range table(t, m) {
			slots = append(slots, m[id])
		}
		tables = append(tables, slots)
	}
	if !slices.Equal(tables[0], tables[1]) {
		t.Error("the same names with other ids have another table")
	}
}

func TestTableRefuses(t *testing.T) {
	for _, c := range []struct {
		backends map[uint32]string
		want     string
	}{
		{map[uint32]string{0: "a"}, `"a"`},
		{map[uint32]string{MaxBackends: "a"}, "1024"},
		{map[uint32]string{1: "a", 2: "a"}, "backends 1 and 2"},
		{backends(MaxBackends), "1024 backends"},
	} {
		if _, err := Table(c.backends); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
}
