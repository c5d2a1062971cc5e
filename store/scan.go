// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// image is what can be read of a file, damaged or not.
type image struct {
	schema  uint64            // 0: unknown
	records records           // of all buckets but objects
	objects map[string]uint64 // the sizes of those that are what their sha256 says
	damage  []error           // what is wrong with pages and sums, each ErrDamaged; or ErrNewer
}

// scan reads a file of this size.
func scan(file io.ReaderAt, size int64) *image {
	i := &image{records: records{}, objects: map[string]uint64{}}
	lost := func(err error) { i.damage = append(i.damage, fmt.Errorf("%w: %w", ErrDamaged, err)) }
	var sum digest
	buckets := salvage(file, size, func(bucket string, key, value []byte) {
		sum.toggle(bucket, key, value)
		if bucket != bucketObjects {
			i.records.add(bucket, string(key), value)
			return
		}
		if got := hashOf(value); got != string(key) {
			lost(fmt.Errorf("object %s has the sha256 %s", key, got))
			return
		}
		i.objects[string(key)] = uint64(len(value))
	}, lost)
	meta := i.records[bucketMeta]
	schema, err := strconv.ParseUint(string(meta[keySchema]), 10, 32)
	switch {
	case err != nil:
		lost(fmt.Errorf("no schema in it"))
		return i
	case schema > Schema:
		i.damage = append(i.damage, errNewer(schema))
		return i
	}
	i.schema = schema
	if slices.Sort(buckets); !slices.Equal(buckets, bucketNames(schema)) {
		lost(fmt.Errorf("schema %d with the buckets %q", schema, buckets))
	}
	if string(meta[keyDigest]) != string(sum[:]) {
		lost(fmt.Errorf("its records do not add up to their checksum"))
	}
	return i
}

// eachOf decodes the records of a bucket, in the order of their keys, and tells of those that cannot be.
func eachOf[T any](r records, bucket string, fn func(key string, value T), unreadable func(key string, err error)) {
	for _, key := range slices.Sorted(maps.Keys(r[bucket])) {
		value, err := decode[T](bucket, key, r[bucket][key])
		if err != nil {
			unreadable(key, err)
			continue
		}
		fn(key, value)
	}
}

// numberOf returns a record that is a number, 0 if there is none or it is none, which unreadable is told.
func numberOf(r records, bucket, key string, unreadable func(error)) uint64 {
	n, err := number(bucket, key, r[bucket][key])
	if err != nil {
		unreadable(err)
	}
	return n
}
