// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"debug/elf"
	"encoding/binary"

	"github.com/xdpd/xdpd/chain"
)

// Bounds of what an object takes when it is parsed and loaded. Clients send objects of any kind.
const (
	// maxUnpacked is for its sections, and for its variables, in bytes: zeroes and compressed sections can be much larger
	// in memory than in the file.
	maxUnpacked = 64 << 20
	// maxTypes is for BTF: the library follows a type to all that it refers to, and needs about 2 KiB of stack for each.
	maxTypes = 1 << 15
	// maxMaps is for the maps of a program, and for programs that it can call: each takes a descriptor while it is loaded.
	// The kernel takes 64 maps for one program.
	maxMaps = 1024
)

// parsing has room for those that parse an object at the moment.
var parsing = make(chan struct{}, 2)

// checkSize refuses an ELF file whose sections, or whose variables, are larger than maxUnpacked together. It leaves
// one that cannot be read to the loader.
func checkSize(data []byte) error {
	// The ELF library reads the names of sections at once. Without their table's number it does not.
	nameless := bytes.Clone(data)
	if len(data) >= 64 && elf.Class(data[elf.EI_CLASS]) == elf.ELFCLASS64 {
		clear(nameless[62:64])
	} else if len(data) >= 52 {
		clear(nameless[50:52])
	}
	f, err := elf.NewFile(bytes.NewReader(nameless))
	if err != nil {
		return nil
	}
	for i, s := range f.Sections {
		if s.Type == elf.SHT_STRTAB && s.Flags&elf.SHF_COMPRESSED != 0 {
			return chain.Errorf(chain.ObjectInvalid, nil, "read object: section %d has names and is compressed", i)
		}
	}
	if f, err = elf.NewFile(bytes.NewReader(data)); err != nil {
		return nil
	}
	left := uint64(maxUnpacked)
	take := func(what, name string, size uint64) error {
		if size > left {
			return chain.Errorf(chain.ObjectInvalid, nil, "read object: with %s %q of %d bytes it takes more than %d MiB of memory",
				what, name, size, maxUnpacked>>20)
		}
		left -= size
		return nil
	}
	for _, s := range f.Sections {
		if err := take("section", s.Name, s.Size); err != nil {
			return err
		}
	}
	if err := checkTypes(f); err != nil {
		return err
	}
	symbols, err := f.Symbols()
	if err != nil {
		return nil
	}
	left = maxUnpacked
	for _, s := range symbols { // the loader copies each, whether they overlap or not
		if err := take("variable", s.Name, s.Size); err != nil {
			return err
		}
	}
	return nil
}

// checkTypes refuses BTF of more than maxTypes types. It leaves what it cannot read to the loader.
func checkTypes(f *elf.File) error {
	for _, s := range f.Sections {
		if s.Name != ".BTF" || s.Type == elf.SHT_NOBITS {
			continue
		}
		data, err := s.Data()
		if err != nil {
			return nil
		}
		if countTypes(data, f.ByteOrder, maxTypes+1) > maxTypes {
			return chain.Errorf(chain.ObjectInvalid, nil, "read object: its BTF has more than %d types", maxTypes)
		}
	}
	return nil
}

// countTypes is how many types BTF has, until it ends, cannot be read, or there are enough (struct btf_header in
// linux/btf.h).
func countTypes(data []byte, order binary.ByteOrder, enough int) (n int) {
	const header = 24
	if len(data) < header {
		return 0
	}
	begin := uint64(order.Uint32(data[4:])) + uint64(order.Uint32(data[8:]))
	end := begin + uint64(order.Uint32(data[12:]))
	if end > uint64(len(data)) {
		return 0
	}
	for types := data[begin:end]; len(types) >= typeHeader && n < enough; n++ {
		types = types[min(typeSize(types, order), len(types)):]
	}
	return n
}

const typeHeader = 12 // sizeof(struct btf_type)

// typeSize is the size of the first of types, with what is behind its header.
func typeSize(types []byte, order binary.ByteOrder) int {
	info := order.Uint32(types[4:])
	n := int(info & 0xffff)
	switch info >> 24 & 0x1f {
	case 1, 14, 17: // int, variable, declaration tag
		return typeHeader + 4
	case 3: // array
		return typeHeader + 12
	case 4, 5, 15, 19: // struct, union, section, enum of 64 bits
		return typeHeader + 12*n
	case 6, 13: // enum, prototype
		return typeHeader + 8*n
	}
	return typeHeader
}
