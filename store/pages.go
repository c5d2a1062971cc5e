// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// This file reads bbolt's page format by itself, with plain reads, and accepts only what is right in every respect:
// bbolt maps the file and trusts its pages, so that a damaged one would end the process.

// Sizes and numbers of bbolt's format, version 2.
const (
	headerSize   = 16 // id, flags, count, overflow
	elementSize  = 16
	bucketSize   = 16 // root, sequence
	metaSize     = 64
	metaMagic    = 0xed0cdaed
	metaVersion  = 2
	minPageSize  = 1 << 10
	maxPageSize  = 1 << 16
	maxKeySize   = 1 << 15
	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10
	isBucket     = 1      // flag of a leaf's element
	manyFree     = 0xffff // count of a freelist whose first element is the count
)

// native is the byte order that bbolt uses.
var native = binary.NativeEndian

// walker goes through all pages of a file.
type walker struct {
	file     io.ReaderAt
	pageSize uint64
	end      uint64 // the number of the first page that is not in use
	seen     []bool // pages that were met already
	visit    func(bucket string, key, value []byte)
	lost     func(error) // what is wrong, to go on without it; nil: that is the end
	buckets  []string
}

// walk checks each page of the bbolt file of this size, and that each has exactly one purpose. It calls visit with
// each record (whose memory visit may keep) and returns the names of the buckets. Buckets in buckets are an error.
func walk(file io.ReaderAt, size int64, visit func(bucket string, key, value []byte)) (buckets []string, err error) {
	w := &walker{file: file, visit: visit}
	if err := w.all(uint64(size)); err != nil {
		return nil, err
	}
	return w.buckets, nil
}

// salvage is walk for a file that may be damaged: it tells lost what is wrong, and goes on with what can be read without it.
func salvage(file io.ReaderAt, size int64, visit func(bucket string, key, value []byte), lost func(error)) (buckets []string) {
	w := &walker{file: file, visit: visit, lost: lost}
	if err := w.all(uint64(size)); err != nil {
		lost(err)
	}
	return w.buckets
}

// orLost returns err, or nil if it can go on without what is wrong.
func (w *walker) orLost(err error) error {
	if err == nil || w.lost == nil {
		return err
	}
	w.lost(err)
	return nil
}

func (w *walker) all(size uint64) error {
	m, err := w.metas(size)
	if err != nil {
		return err
	}
	w.seen = make([]bool, w.end)
	if err := w.orLost(w.tree(m.root, span{}, true, w.bucket)); err != nil {
		return err
	}
	if err := w.orLost(w.free(m.freelist)); err != nil {
		return err
	}
	for id := uint64(2); id < w.end; id++ {
		if w.seen[id] {
			continue
		}
		if err := w.orLost(fmt.Errorf("page %d: neither in use nor free", id)); err != nil {
			return err
		}
	}
	return nil
}

// meta is what a meta page says.
type meta struct{ pageSize, root, freelist, end, txid uint64 }

// metas reads the two meta pages and returns the later one. Both must be right: each is written alone and in one sector, so
// that a wrong one is no trace of a crash, and to go on with the other would be to forget the last change.
func (w *walker) metas(size uint64) (latest meta, err error) {
	if size < 4*minPageSize {
		return meta{}, fmt.Errorf("only %d bytes", size)
	}
	found := false
	w.pageSize = minPageSize
	for id := range uint64(2) {
		m, err := w.meta(id)
		if err := w.orLost(err); err != nil {
			return meta{}, err
		}
		if err != nil {
			w.pageSize = uint64(os.Getpagesize()) // the other one may be there
			continue
		}
		if found && m.pageSize != latest.pageSize {
			return meta{}, fmt.Errorf("meta pages with pages of %d and %d bytes", latest.pageSize, m.pageSize)
		}
		if !found || m.txid >= latest.txid {
			latest = m
		}
		found, w.pageSize = true, m.pageSize
	}
	if !found {
		return meta{}, errors.New("both meta pages are wrong, by which all others are found")
	}
	w.end = latest.end
	if have := size / w.pageSize; w.end > have {
		err := fmt.Errorf("only %d bytes of %d pages of %d bytes: the end is missing", size, w.end, w.pageSize)
		if err := w.orLost(err); err != nil {
			return meta{}, err
		}
		w.end = have
	}
	return latest, nil
}

// meta reads one meta page.
func (w *walker) meta(id uint64) (meta, error) {
	p := make([]byte, headerSize+metaSize)
	if _, err := w.file.ReadAt(p, int64(id*w.pageSize)); err != nil {
		return meta{}, fmt.Errorf("meta page %d: %w", id, err)
	}
	m := p[headerSize:]
	sum := fnv.New64a()
	sum.Write(m[:metaSize-8])
	if native.Uint64(p) != id || native.Uint16(p[8:]) != flagMeta || native.Uint32(m) != metaMagic ||
		native.Uint32(m[4:]) != metaVersion || native.Uint64(m[metaSize-8:]) != sum.Sum64() {
		return meta{}, fmt.Errorf("meta page %d is wrong", id)
	}
	pageSize := uint64(native.Uint32(m[8:]))
	if pageSize < minPageSize || pageSize > maxPageSize || pageSize&(pageSize-1) != 0 {
		return meta{}, fmt.Errorf("meta page %d: pages of %d bytes", id, pageSize)
	}
	return meta{pageSize, native.Uint64(m[16:]), native.Uint64(m[32:]), native.Uint64(m[40:]), native.Uint64(m[48:])}, nil
}

// metaPlaces returns where the meta pages are; where they should be if the first one cannot tell.
func metaPlaces(file io.ReaderAt) [2]int64 {
	w := &walker{file: file, pageSize: minPageSize}
	m, err := w.meta(0)
	if err != nil {
		m.pageSize = uint64(os.Getpagesize())
	}
	return [2]int64{0, int64(m.pageSize)}
}

// readMetas reads both meta pages as they are. They are other ones after each transaction.
func readMetas(file io.ReaderAt) ([]byte, error) {
	pages := make([]byte, 2*(headerSize+metaSize))
	for i, at := range metaPlaces(file) {
		part := pages[i*(headerSize+metaSize):][:headerSize+metaSize]
		if _, err := file.ReadAt(part, at); err != nil {
			return nil, fmt.Errorf("meta page %d: %w", i, err)
		}
	}
	return pages, nil
}

// writeMetas writes what readMetas returned.
func writeMetas(file *os.File, pages []byte) error {
	for i, at := range metaPlaces(file) {
		if _, err := file.WriteAt(pages[i*(headerSize+metaSize):][:headerSize+metaSize], at); err != nil {
			return fmt.Errorf("meta page %d: %w", i, err)
		}
	}
	return nil
}

// page is a page with those that its content flows over to.
type page struct {
	id    uint64
	flags uint16
	count uint16
	data  []byte // with the header
}

// claim notes that a page has its purpose.
func (w *walker) claim(id uint64) error {
	if id < 2 || id >= w.end {
		return fmt.Errorf("page %d: outside of the file's pages", id)
	}
	if w.seen[id] {
		return fmt.Errorf("page %d: used twice", id)
	}
	w.seen[id] = true
	return nil
}

func (w *walker) page(id uint64) (*page, error) {
	if err := w.claim(id); err != nil {
		return nil, err
	}
	head := make([]byte, headerSize)
	if _, err := w.file.ReadAt(head, int64(id*w.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	p := &page{id: id, flags: native.Uint16(head[8:]), count: native.Uint16(head[10:])}
	if own := native.Uint64(head); own != id {
		return nil, fmt.Errorf("page %d: says that it is page %d", id, own)
	}
	overflow := uint64(native.Uint32(head[12:]))
	for i := range overflow {
		if err := w.claim(id + 1 + i); err != nil {
			return nil, err
		}
	}
	p.data = make([]byte, (overflow+1)*w.pageSize)
	if _, err := w.file.ReadAt(p.data, int64(id*w.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return p, nil
}

// free reads the list of free pages.
func (w *walker) free(id uint64) error {
	p, err := w.page(id)
	if err != nil {
		return err
	}
	if p.flags != flagFreelist {
		return fmt.Errorf("page %d: flags %#x, not a list of free pages", id, p.flags)
	}
	ids, count := p.data[headerSize:], uint64(p.count)
	if count == manyFree {
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("page %d: too short for %d free pages", id, count)
	}
	for ; count > 0; count-- {
		if err := w.claim(native.Uint64(ids)); err != nil {
			return fmt.Errorf("list of free pages: %w", err)
		}
		ids = ids[8:]
	}
	return nil
}

// element is what a leaf holds, or, with a page instead of a value, a branch.
type element struct {
	flags      uint32
	key, value []byte
	child      uint64
}

// elements reads those of a leaf or branch.
func (p *page) elements() ([]element, error) {
	elements := make([]element, 0, p.count)
	for i := range uint64(p.count) {
		at := headerSize + i*elementSize
		if at+elementSize > uint64(len(p.data)) {
			return nil, fmt.Errorf("page %d: too short for %d elements", p.id, p.count)
		}
		raw := p.data[at:]
		var e element
		var start, keySize, valueSize uint64
		if p.flags == flagBranch {
			start, keySize = uint64(native.Uint32(raw)), uint64(native.Uint32(raw[4:]))
			e.child = native.Uint64(raw[8:])
		} else {
			e.flags = native.Uint32(raw)
			start, keySize = uint64(native.Uint32(raw[4:])), uint64(native.Uint32(raw[8:]))
			valueSize = uint64(native.Uint32(raw[12:]))
		}
		if keySize == 0 || keySize > maxKeySize || start+keySize+valueSize > uint64(len(raw)) ||
			at+start < headerSize+uint64(p.count)*elementSize {
			return nil, fmt.Errorf("page %d: element %d is not inside", p.id, i)
		}
		e.key = raw[start:][:keySize:keySize]
		e.value = raw[start+keySize:][:valueSize:valueSize]
		elements = append(elements, e)
	}
	return elements, nil
}

// span is where keys must be: the first is low, all are below high; nil is no limit. bbolt finds a child in its
// branch by the child's own first key, and would enter it a second time if the branch had another one.
type span struct{ low, high []byte }

// inOrder checks that the keys ascend inside of the span.
func (s span) inOrder(id uint64, elements []element) error {
	for i, e := range elements {
		if i > 0 && bytes.Compare(elements[i-1].key, e.key) >= 0 || i == 0 && s.low != nil && !bytes.Equal(s.low, e.key) ||
			s.high != nil && bytes.Compare(e.key, s.high) >= 0 {
			return fmt.Errorf("page %d: key %d is out of order", id, i)
		}
	}
	return nil
}

// tree goes through the pages of one bucket, and calls leaf with each element.
func (w *walker) tree(id uint64, s span, root bool, leaf func(element) error) error {
	p, err := w.page(id)
	if err != nil {
		return err
	}
	if p.flags != flagLeaf && p.flags != flagBranch {
		return fmt.Errorf("page %d: flags %#x, neither leaf nor branch", id, p.flags)
	}
	if p.count == 0 && (!root || p.flags == flagBranch) {
		return fmt.Errorf("page %d: empty", id)
	}
	elements, err := p.elements()
	if err != nil {
		return err
	}
	if err := w.orLost(s.inOrder(id, elements)); err != nil {
		return err
	}
	for i, e := range elements {
		if p.flags == flagLeaf {
			err = leaf(e)
		} else {
			below := span{e.key, s.high}
			if i+1 < len(elements) {
				below.high = elements[i+1].key
			}
			err = w.tree(e.child, below, false, leaf)
		}
		if err := w.orLost(err); err != nil {
			return err
		}
	}
	return nil
}

// bucket goes through a bucket of the root; a small one has its only page in the element's value.
func (w *walker) bucket(e element) error {
	if e.flags != isBucket || len(e.value) < bucketSize {
		return fmt.Errorf("key %q is not a bucket", e.key)
	}
	name := string(e.key)
	w.buckets = append(w.buckets, name)
	record := func(e element) error {
		if e.flags != 0 {
			return fmt.Errorf("key %q of bucket %q is not a record", e.key, name)
		}
		w.visit(name, e.key, e.value)
		return nil
	}
	if root := native.Uint64(e.value); root != 0 {
		return w.tree(root, span{}, true, record)
	}
	data := e.value[bucketSize:]
	if len(data) < headerSize || native.Uint64(data) != 0 || native.Uint16(data[8:]) != flagLeaf || native.Uint32(data[12:]) != 0 {
		return fmt.Errorf("bucket %q is wrong", name)
	}
	inline := page{flags: flagLeaf, count: native.Uint16(data[10:]), data: data}
	elements, err := inline.elements()
	if err != nil {
		return fmt.Errorf("bucket %q: %w", name, err)
	}
	if err := w.orLost((span{}).inOrder(0, elements)); err != nil {
		return fmt.Errorf("bucket %q: %w", name, err)
	}
	for _, e := range elements {
		if err := w.orLost(record(e)); err != nil {
			return err
		}
	}
	return nil
}
