// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestWalkReadsWhatBboltWrites makes bbolt write trees of all shapes, and compares what walk finds in them: walk is
// strict, and must not refuse a file that is right.
func TestWalkReadsWhatBboltWrites(t *testing.T) {
	for _, pageSize := range []int{1 << 10, 1 << 12, 1 << 16} {
		t.Run(fmt.Sprint(pageSize), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			path := filepath.Join(t.TempDir(), "bolt.db")
			db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: pageSize, NoSync: true, NoGrowSync: true})
			must(t, err)
			defer db.Close()
			want := map[string]map[string]string{}
			for step := range 150 / rarely {
				must(t, db.Update(func(x *bolt.Tx) error { return shake(x, r, want) }))
				got, err := walked(path)
				if err != nil {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
				if !maps.EqualFunc(got, want, maps.Equal) {
					t.Fatalf("seed %d step %d: the records differ", seed, step)
				}
			}
		})
	}
}

// shake puts and deletes many records, so that pages split and merge.
func shake(x *bolt.Tx, r *rand.Rand, want map[string]map[string]string) error {
	name := string(rune('a' + r.IntN(3)))
	if r.IntN(40) == 0 && want[name] != nil {
		delete(want, name)
		return x.DeleteBucket([]byte(name))
	}
	b, err := x.CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return err
	}
	if want[name] == nil {
		want[name] = map[string]string{}
	}
	grow := r.IntN(2) == 0
	for range r.IntN(200) {
		key := fmt.Sprintf("%0*d", 1+r.IntN(100), r.IntN(2000))
		if old := slices.Collect(maps.Keys(want[name])); !grow && len(old) > 0 {
			key = old[0]
			delete(want[name], key)
			if err := b.Delete([]byte(key)); err != nil {
				return err
			}
			continue
		}
		value := strings.Repeat("v", r.IntN(10))
		if r.IntN(50) == 0 {
			value = strings.Repeat("large", r.IntN(10_000))
		}
		want[name][key] = value
		if err := b.Put([]byte(key), []byte(value)); err != nil {
			return err
		}
	}
	return nil
}

func walked(path string) (map[string]map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	got := map[string]map[string]string{}
	buckets, err := walk(file, info.Size(), func(bucket string, key, value []byte) {
		if got[bucket] == nil {
			got[bucket] = map[string]string{}
		}
		got[bucket][string(key)] = string(value)
	})
	for _, name := range buckets {
		if got[name] == nil {
			got[name] = map[string]string{}
		}
	}
	return got, err
}
