// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
)

func decodeSet(req *xdpdv1.SetChainsRequest, by control.Caller) (set control.SetRequest, err error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return set, err
	}
	set.FreshMaps = req.GetFreshMaps()
	if set.Programs, err = decodePrograms(req.GetPrograms()); err != nil {
		return set, err
	}
	if set.Chains, err = decodeChains(req.GetChains()); err != nil {
		return set, err
	}
	if set.Objects, err = decodeObjects(req.GetObjects(), set.Programs); err != nil {
		return set, err
	}
	set.Options, err = decodeOptions(req.GetOptions(), by)
	return set, err
}

// decodeObjects returns the objects by sha256, each of which a program must refer to.
func decodeObjects(objects [][]byte, programs []control.ProgramSpec) (map[string][]byte, error) {
	if n := len(objects); n > maxObjects {
		return nil, invalid("objects", "there are %d, at most %d are taken", n, maxObjects)
	}
	wanted := make(map[string]bool, len(programs))
	for _, p := range programs {
		wanted[p.SHA256] = true
	}
	var total int
	bySum := make(map[string][]byte, len(objects))
	for i, object := range objects {
		field := fmt.Sprintf("objects[%d]", i)
		if len(object) == 0 {
			return nil, invalid(field, "it is empty")
		}
		if err := checkSize(field, object); err != nil {
			return nil, err
		}
		if total += len(object); total > maxAllObjects {
			return nil, invalid(field, "with it the objects have %d bytes, at most %d (48 MiB) are taken", total, maxAllObjects)
		}
		sum := sha256.Sum256(object)
		name := hex.EncodeToString(sum[:])
		if !wanted[name] {
			return nil, invalid(field, "no program of the request has its sha256 %s", name)
		}
		bySum[name] = object
	}
	return bySum, nil
}

func decodePrograms(specs []*xdpdv1.ProgramSpec) ([]control.ProgramSpec, error) {
	if n := len(specs); n > maxPrograms {
		return nil, invalid("programs", "there are %d, at most %d are taken", n, maxPrograms)
	}
	programs, seen := make([]control.ProgramSpec, len(specs)), make(map[string]int, len(specs))
	for i, s := range specs {
		var err error
		in := fmt.Sprintf("programs[%d].", i)
		if programs[i], err = decodeProgram(in, s); err != nil {
			return nil, err
		}
		if before, twice := seen[s.GetName()]; twice {
			return nil, invalid(in+"name", "%q is programs[%d] already", s.GetName(), before)
		}
		seen[s.GetName()] = i
	}
	return programs, nil
}

func decodeProgram(in string, s *xdpdv1.ProgramSpec) (p control.ProgramSpec, err error) {
	p = control.ProgramSpec{Name: s.GetName(), SHA256: s.GetObjectSha256(), Function: s.GetFunction()}
	if err := given(in+"name", p.Name); err != nil {
		return p, err
	}
	if p.SHA256 != "" {
		if err := checkSHA256(in+"object_sha256", p.SHA256); err != nil {
			return p, err
		}
	}
	if err := bounded(in+"function", p.Function); err != nil {
		return p, err
	}
	if p.Lifetime, err = decodeLifetime(in+"lifetime", s.GetLifetime()); err != nil {
		return p, err
	}
	p.Settings, err = decodeSettings(in+"settings", s.GetSettings())
	return p, err
}

func decodeChains(specs []*xdpdv1.ChainSpec) ([]control.ChainSpec, error) {
	if n := len(specs); n == 0 || n > maxInterfaces {
		return nil, invalid("chains", "there are %d, want 1 to %d", n, maxInterfaces)
	}
	chains, seen := make([]control.ChainSpec, len(specs)), make(map[string]int, len(specs))
	for i, s := range specs {
		var err error
		in := fmt.Sprintf("chains[%d].", i)
		if chains[i], err = decodeChain(in, s); err != nil {
			return nil, err
		}
		iface := chains[i].Interface
		if before, twice := seen[iface]; twice {
			return nil, invalid(in+"interface", "%q is chains[%d] already", iface, before)
		}
		seen[iface] = i
	}
	return chains, nil
}

func decodeChain(in string, s *xdpdv1.ChainSpec) (c control.ChainSpec, err error) {
	if c.Interface, err = decodeInterface(in+"interface", s.GetInterface()); err != nil {
		return c, err
	}
	if c.Mode, err = decodeMode(in+"mode", s.GetMode()); err != nil {
		return c, err
	}
	if v := s.GetFinalVerdict(); v != xdpdv1.Verdict_VERDICT_UNSPECIFIED {
		final, err := decodeVerdict(in+"final_verdict", v)
		if err != nil {
			return c, err
		}
		c.Final = &final
	}
	if n := len(s.GetMembers()); n > maxUpdates {
		return c, invalid(in+"members", "there are %d, at most %d are taken", n, maxUpdates)
	}
	c.Members = make([]control.MemberSpec, len(s.GetMembers()))
	seen := make(map[string]int, len(c.Members))
	for i, m := range s.GetMembers() {
		at := fmt.Sprintf("%smembers[%d].", in, i)
		if c.Members[i], err = decodeMember(at, m); err != nil {
			return c, err
		}
		if before, twice := seen[m.GetProgram()]; twice {
			return c, invalid(at+"program", "%q is %smembers[%d] already", m.GetProgram(), in, before)
		}
		seen[m.GetProgram()] = i
	}
	return c, nil
}

func decodeMember(in string, s *xdpdv1.MemberSpec) (m control.MemberSpec, err error) {
	m = control.MemberSpec{Program: s.GetProgram(), Priority: s.Priority, Disabled: s.Enabled != nil && !s.GetEnabled()}
	if err := given(in+"program", m.Program); err != nil {
		return m, err
	}
	m.ProceedOn, err = decodeProceedOn(in+"proceed_on", s.GetProceedOn())
	return m, err
}

// decodeObject takes the object or the sha256 of a known one; none is for the caller to judge.
func decodeObject(data []byte, sum string) (control.Object, error) {
	if sum == "" {
		return control.Object{Data: data}, checkSize("object", data)
	}
	if len(data) > 0 {
		return control.Object{}, invalid("object_sha256", "give the object or the sha256 of one that the daemon has, not both")
	}
	return control.Object{SHA256: sum}, checkSHA256("object_sha256", sum)
}

func checkSize(field string, object []byte) error {
	if len(object) <= maxObject {
		return nil
	}
	return chain.Errorf(chain.ObjectTooLarge, chain.Facts{"size": strconv.Itoa(len(object)), "limit": strconv.Itoa(maxObject)},
		"%s: it has %d bytes, at most %d (16 MiB) are taken", field, len(object), maxObject)
}

func checkSHA256(field, sum string) error {
	valid := len(sum) == hex.EncodedLen(sha256.Size)
	for i := 0; valid && i < len(sum); i++ {
		valid = '0' <= sum[i] && sum[i] <= '9' || 'a' <= sum[i] && sum[i] <= 'f'
	}
	if !valid {
		return invalid(field, "want %d digits of 0-9 a-f", hex.EncodedLen(sha256.Size))
	}
	return nil
}

func decodeSettings(field string, s *xdpdv1.ProgramSettings) (*chain.Settings, error) {
	if s == nil {
		return nil, nil //nolint:nilnil // nil stands for "not given"
	}
	globals, err := decodeGlobals(field+".globals", s.GetGlobals())
	if err != nil {
		return nil, err
	}
	entries := s.GetMaxEntries()
	if n := len(entries); n > maxSettings {
		return nil, invalid(field+".max_entries", "there are %d, at most %d are taken", n, maxSettings)
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		at := entry(field+".max_entries", name)
		if err := given(at, name); err != nil {
			return nil, err
		}
		if entries[name] == 0 {
			return nil, invalid(at, "a map has at least one entry")
		}
	}
	if err := bounded(field+".share_maps_from", s.GetShareMapsFrom()); err != nil {
		return nil, err
	}
	if err := bounded(field+".map_group", s.GetMapGroup()); err != nil {
		return nil, err
	}
	return &chain.Settings{
		Globals: globals, MaxEntries: entries, ShareMapsFrom: s.GetShareMapsFrom(), MapGroup: s.GetMapGroup(),
	}, nil
}

// decodeGlobals brings the values to one spelling, so that the same ones make no difference whoever wrote them.
func decodeGlobals(field string, values map[string]string) (map[string]string, error) {
	if n := len(values); n > maxSettings {
		return nil, invalid(field, "there are %d, at most %d are taken", n, maxSettings)
	}
	if len(values) == 0 {
		return nil, nil
	}
	total := 0
	globals := make(map[string]string, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		at := entry(field, name)
		if err := given(at, name); err != nil {
			return nil, err
		}
		if n := len(values[name]); n > maxGlobal {
			return nil, invalid(at, "its value has %d bytes, at most %d (64 KiB) are taken", n, maxGlobal)
		}
		globals[name] = chain.Spelled(values[name])
		// A few characters are longer in that spelling.
		if n := len(globals[name]); n > maxGlobal {
			return nil, invalid(at, "its value has %d bytes when its characters are written as xdpd does, at most %d (64 KiB) are taken", n, maxGlobal)
		}
		if total += max(len(values[name]), len(globals[name])); total > maxGlobals {
			return nil, invalid(field, "the values have more than %d bytes (1 MiB) together", maxGlobals)
		}
	}
	return globals, nil
}
