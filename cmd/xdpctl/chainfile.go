// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// sumPrefix begins an object in a file of chains that is not a path.
const sumPrefix = "sha256:"

// chainFile is what a file of chains says, in its order.
type chainFile struct {
	programs []*fileProgram
	chains   []*xdpdv1.ChainSpec
}

// fileProgram is a program of a file. Its spec has no sha256 yet where the object is a path.
type fileProgram struct {
	spec   *xdpdv1.ProgramSpec
	path   string
	object ast.Node // where the path is written
}

// parseChains reads a file of chains, YAML or JSON. Errors begin with line and column.
func parseChains(data []byte) (*chainFile, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("1:1: it is not text in UTF-8")
	}
	body, err := document(data)
	if err != nil {
		return nil, err
	}
	f := &chainFile{}
	err = fields(body, "the file", map[string]func(ast.Node, string) error{
		"programs": func(n ast.Node, what string) error { return eachPair(n, "programs", f.program) },
		"chains":   func(n ast.Node, what string) error { return eachPair(n, "chains", f.chain) },
	})
	if err == nil && len(f.chains) == 0 {
		err = at(body, "there are no chains")
	}
	return f, err
}

// program reads one pair of programs.
func (f *chainFile) program(name string, pair *ast.MappingValueNode) error {
	p := &fileProgram{spec: &xdpdv1.ProgramSpec{Name: name}}
	f.programs = append(f.programs, p)
	settings := &xdpdv1.ProgramSettings{}
	set := func(read func(ast.Node, string) error) func(ast.Node, string) error {
		return func(n ast.Node, what string) error {
			p.spec.Settings = settings
			return read(n, what)
		}
	}
	return fields(pair.Value, "programs."+name, map[string]func(ast.Node, string) error{
		"object": p.readObject,
		"function": func(n ast.Node, what string) (err error) {
			p.spec.Function, err = textOf(n, what)
			return err
		},
		"lifetime": func(n ast.Node, what string) error {
			w, err := oneOf(n, what, "daemon", "persistent", "lease")
			p.spec.Lifetime = xdpdv1.Lifetime(xdpdv1.Lifetime_value["LIFETIME_"+strings.ToUpper(w)])
			return err
		},
		"globals": set(func(n ast.Node, what string) error {
			settings.Globals = map[string]string{}
			return eachPair(n, what, func(key string, pair *ast.MappingValueNode) (err error) {
				settings.Globals[key], err = jsonNode(pair.Value, what+"."+key)
				return err
			})
		}),
		"max_entries": set(func(n ast.Node, what string) error {
			settings.MaxEntries = map[string]uint32{}
			return eachPair(n, what, func(key string, pair *ast.MappingValueNode) error {
				v, err := wholeOf(pair.Value, what+"."+key, 1, math.MaxUint32)
				settings.MaxEntries[key] = uint32(v)
				return err
			})
		}),
		"share_maps_from": set(func(n ast.Node, what string) (err error) {
			settings.ShareMapsFrom, err = textOf(n, what)
			return err
		}),
		"map_group": set(func(n ast.Node, what string) (err error) {
			settings.MapGroup, err = textOf(n, what)
			return err
		}),
	})
}

// readObject reads where the object is.
func (p *fileProgram) readObject(n ast.Node, what string) error {
	text, err := textOf(n, what)
	if err != nil {
		return err
	}
	digits, isSum := strings.CutPrefix(text, sumPrefix)
	if !isSum {
		p.path, p.object = text, n
		return nil
	}
	sum, ok := sha256Of(digits)
	if !ok {
		return at(n, "%s: behind %s come 64 hex digits; a file of that name is ./%s", what, sumPrefix, text)
	}
	p.spec.ObjectSha256 = sum
	return nil
}

// chain reads one pair of chains.
func (f *chainFile) chain(iface string, pair *ast.MappingValueNode) error {
	if isPattern(iface) {
		return at(pair.Key, "chains.%s: a chain is of one interface, and this is a pattern; xdpctl add takes patterns", iface)
	}
	c := &xdpdv1.ChainSpec{Interface: iface}
	f.chains = append(f.chains, c)
	what, members := "chains."+iface, false
	err := fields(pair.Value, what, map[string]func(ast.Node, string) error{
		"mode": func(n ast.Node, what string) error {
			w, err := oneOf(n, what, "auto", "native", "generic")
			c.Mode = xdpdv1.Mode(xdpdv1.Mode_value["MODE_"+strings.ToUpper(w)])
			return err
		},
		"final": func(n ast.Node, what string) (err error) {
			c.FinalVerdict, err = verdictOf(n, what)
			return err
		},
		"members": func(n ast.Node, what string) error {
			members = true
			return eachElement(n, what, func(n ast.Node) error {
				m, err := memberOf(n, fmt.Sprintf("%s[%d]", what, len(c.GetMembers())))
				c.Members = append(c.Members, m)
				return err
			})
		},
	})
	if err == nil && !members {
		err = at(pair.Key, "%s has no members; to take the chain from the interface write members: []", what)
	}
	return err
}

// memberOf reads a member: the name of its program, or a mapping.
func memberOf(n ast.Node, what string) (*xdpdv1.MemberSpec, error) {
	m := &xdpdv1.MemberSpec{}
	if _, ok := mappingPairs(n); !ok {
		var err error
		m.Program, err = textOf(n, what)
		return m, err
	}
	err := fields(n, what, map[string]func(ast.Node, string) error{
		"program": func(n ast.Node, what string) (err error) {
			m.Program, err = textOf(n, what)
			return err
		},
		"priority": func(n ast.Node, what string) error {
			v, err := wholeOf(n, what, math.MinInt32, math.MaxInt32)
			p := int32(v)
			m.Priority = &p
			return err
		},
		"proceed_on": func(n ast.Node, what string) (err error) {
			m.ProceedOn, err = proceedOnOf(n, what)
			return err
		},
		"enabled": func(n ast.Node, what string) error {
			v, err := boolOf(n, what)
			m.Enabled = &v
			return err
		},
	})
	if err == nil && m.GetProgram() == "" {
		err = at(n, "%s has no program", what)
	}
	return m, err
}

// proceedOnOf reads a list of verdicts, or the word none.
func proceedOnOf(n ast.Node, what string) (*xdpdv1.ProceedOn, error) {
	set := &xdpdv1.ProceedOn{}
	if _, ok := n.(*ast.StringNode); ok {
		_, err := oneOf(n, what, "none")
		return set, err
	}
	err := eachElement(n, what, func(n ast.Node) error {
		v, err := verdictOf(n, what)
		set.Verdicts = append(set.Verdicts, v)
		return err
	})
	slices.Sort(set.Verdicts)
	set.Verdicts = slices.Compact(set.Verdicts)
	return set, err
}

func verdictOf(n ast.Node, what string) (xdpdv1.Verdict, error) {
	w, err := oneOf(n, what, verdictWords()...)
	return xdpdv1.Verdict(xdpdv1.Verdict_value["VERDICT_"+strings.ToUpper(w)]), err
}
