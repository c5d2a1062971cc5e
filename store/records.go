// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

// Schema is the version of what is in the file. Whoever changes the meaning of a record raises it.
//
// Schema 1 had neither history nor pending changes, and schema 2 no leases; what else is new in 3 are fields that older
// records do not have. Open adds the empty buckets to such a store.
const Schema = 3

// The buckets, sorted.
const (
	bucketChains    = "chains"    // interface: Chain as JSON
	bucketHistory   = "history"   // entryKey: Entry as JSON
	bucketLeases    = "leases"    // idKey: Lease as JSON
	bucketMeta      = "meta"      // the keys below
	bucketObjects   = "objects"   // sha256 in hex: the object
	bucketPending   = "pending"   // idKey: Pending as JSON
	bucketPrograms  = "programs"  // name: Program as JSON
	bucketRefs      = "refs"      // sha256 in hex: how often programs, history and pending changes name the object
	bucketRevisions = "revisions" // interface: highest revision ever, while it has a chain or a history, and some time longer
)

// bucketNames returns those of a schema, sorted; of schema 0 and of newer ones, none.
func bucketNames(schema uint64) []string {
	switch schema {
	case 1:
		return []string{bucketChains, bucketMeta, bucketObjects, bucketPrograms, bucketRefs, bucketRevisions}
	case 2:
		return []string{bucketChains, bucketHistory, bucketMeta, bucketObjects, bucketPending, bucketPrograms, bucketRefs, bucketRevisions}
	case Schema:
		return []string{bucketChains, bucketHistory, bucketLeases, bucketMeta, bucketObjects, bucketPending, bucketPrograms, bucketRefs, bucketRevisions}
	}
	return nil
}

// The keys of bucketMeta.
const (
	keySchema    = "schema"
	keyBootID    = "boot_id"
	keyProgramID = "last_program_id"
	keyPendingID = "last_pending_id"
	keyLeaseID   = "last_lease_id"
	keyFloor     = "revision_floor" // the highest number of a revision of the interfaces that are not in bucketRevisions any more
	keyDigest    = "digest"
)

// digest is the sum of all records, whatever their order: the exclusive or of the hash of each. bbolt has no
// checksums for its data, so a flipped bit in a record would go unnoticed without it.
type digest [sha256.Size]byte

// toggle adds a record to the sum, or takes it out again.
func (d *digest) toggle(bucket string, key, value []byte) {
	if bucket == bucketMeta && string(key) == keyDigest {
		return
	}
	if bucket == bucketObjects {
		value = nil // its hash is the key; reading it is left to whoever needs the object
	}
	h := sha256.New()
	for _, part := range [][]byte{[]byte(bucket), key, value} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	for i, b := range h.Sum(nil) {
		d[i] ^= b
	}
}

// inspect reads the whole file of this size without changing it. It returns the schema if it is a store of one that is
// known and whole, except for the content of objects. It calls visit with each record. Errors wrap ErrNewer or are what is
// wrong.
func inspect(file io.ReaderAt, size int64, visit func(bucket string, key, value []byte)) (schema uint64, err error) {
	var sum digest
	meta := map[string]string{}
	buckets, err := walk(file, size, func(bucket string, key, value []byte) {
		sum.toggle(bucket, key, value)
		visit(bucket, key, value)
		if bucket == bucketMeta {
			meta[string(key)] = string(value)
		}
	})
	if err != nil {
		return 0, err
	}
	schema, err = strconv.ParseUint(meta[keySchema], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("no schema in it")
	}
	if schema > Schema {
		return 0, errNewer(schema)
	}
	if !slices.Equal(buckets, bucketNames(schema)) {
		return 0, fmt.Errorf("schema %d with the buckets %q", schema, buckets)
	}
	if meta[keyDigest] != string(sum[:]) {
		return 0, fmt.Errorf("its records do not add up to their checksum")
	}
	return schema, nil
}

func errNewer(schema uint64) error {
	return fmt.Errorf("%w: it has schema %d, and this xdpd knows up to %d", ErrNewer, schema, Schema)
}

// tx is a transaction that writes, and keeps the digest up to date.
type tx struct {
	*bolt.Tx
	sum     digest
	refs    map[string]int // by how much the number of references to objects changes
	changed records        // what is to be remembered
	was     records        // what is remembered
	shelves *shelves       // of that; nil: there are none
}

func newTx(t *bolt.Tx) *tx { return &tx{Tx: t, refs: map[string]int{}, changed: records{}} }

// do does fn, and brings the digest up to date.
func (t *tx) do(fn func(*tx) error) error {
	copy(t.sum[:], get(t.Tx, bucketMeta, keyDigest))
	if err := fn(t); err != nil {
		return err
	}
	return t.put(bucketMeta, keyDigest, t.sum[:])
}

// get returns a record, or nil; it is valid during the transaction.
func get(t *bolt.Tx, bucket, key string) []byte {
	return t.Bucket([]byte(bucket)).Get([]byte(key))
}

func (t *tx) put(bucket, key string, value []byte) error {
	k := []byte(key)
	if old := get(t.Tx, bucket, key); old != nil {
		t.sum.toggle(bucket, k, old)
	}
	t.sum.toggle(bucket, k, value)
	if err := t.Bucket([]byte(bucket)).Put(k, value); err != nil {
		return fmt.Errorf("put %q into %s: %w", key, bucket, err)
	}
	if remembered(bucket) {
		t.changed.add(bucket, key, value)
	}
	return nil
}

func (t *tx) delete(bucket, key string) error {
	k := []byte(key)
	old := get(t.Tx, bucket, key)
	if old == nil {
		return nil
	}
	t.sum.toggle(bucket, k, old)
	if err := t.Bucket([]byte(bucket)).Delete(k); err != nil {
		return fmt.Errorf("delete %q from %s: %w", key, bucket, err)
	}
	if remembered(bucket) {
		t.changed.add(bucket, key, nil)
	}
	return nil
}

func (t *tx) putJSON(bucket, key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %q into %s: %w", key, bucket, err)
	}
	return t.put(bucket, key, data)
}

// idKey returns the key of a record that has a number. The keys are in the order of the numbers.
func idKey(id uint64) string { return string(binary.BigEndian.AppendUint64(nil, id)) }

// getNumber returns a record that is a number; 0 if there is none.
func getNumber(t *bolt.Tx, bucket, key string) (uint64, error) {
	return number(bucket, key, get(t, bucket, key))
}

// number reads a record that is a number; 0 if there is none.
func number(bucket, key string, data []byte) (uint64, error) {
	if data == nil {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s of %q: %w", bucket, key, err)
	}
	return n, nil
}

func (t *tx) putNumber(bucket, key string, n uint64) error {
	return t.put(bucket, key, strconv.AppendUint(nil, n, 10))
}

// raise makes a number at least n.
func (t *tx) raise(bucket, key string, n uint64) error {
	old, err := getNumber(t.Tx, bucket, key)
	if err != nil || old >= n {
		return err
	}
	return t.putNumber(bucket, key, n)
}

// each reads all records of a bucket, in the order of their keys.
func each[T any](t *bolt.Tx, bucket string, fn func(key string, value T) error) error {
	return t.Bucket([]byte(bucket)).ForEach(func(k, data []byte) error {
		value, err := decode[T](bucket, string(k), data)
		if err != nil {
			return err
		}
		return fn(string(k), value)
	})
}

// getJSON reads a record; false if there is none.
func getJSON[T any](t *bolt.Tx, bucket, key string) (value T, found bool, err error) {
	data := get(t, bucket, key)
	if data == nil {
		return value, false, nil
	}
	if value, err = decode[T](bucket, key, data); err != nil {
		return value, false, err
	}
	return value, true, nil
}
