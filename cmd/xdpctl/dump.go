// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// The types of a file of chains as it is printed; parseChains reads it.
type (
	dumpFile struct {
		Programs map[string]dumpProgram `json:"programs"`
		Chains   map[string]dumpChain   `json:"chains"`
	}
	dumpProgram struct {
		Object   string `json:"object"`
		Function string `json:"function,omitempty"`
		Lifetime string `json:"lifetime,omitempty"`
		// Always there: without it apply would leave the settings that a program has.
		Globals       map[string]json.RawMessage `json:"globals"`
		MaxEntries    map[string]uint32          `json:"max_entries,omitempty"`
		ShareMapsFrom string                     `json:"share_maps_from,omitempty"`
		MapGroup      string                     `json:"map_group,omitempty"`
	}
	dumpChain struct {
		Mode    string       `json:"mode,omitempty"`
		Final   string       `json:"final,omitempty"`
		Members []dumpMember `json:"members"`
	}
	dumpMember struct {
		Program   string   `json:"program"`
		Priority  int32    `json:"priority"`
		ProceedOn []string `json:"proceed_on"`
		Enabled   bool     `json:"enabled"`
	}
)

// dumpTries is how often the chains are asked for until they are the same before and after the programs.
const dumpTries = 5

// dumpChains prints the file that makes the chains what they are; get asks the daemon for them.
func (a *app) dumpChains(ctx context.Context, c *client.Client, get func() ([]*xdpdv1.Chain, error)) error {
	chains, err := get()
	for range dumpTries {
		if err != nil {
			return err
		}
		programs, err := c.ListPrograms(ctx, &xdpdv1.ListProgramsRequest{})
		if err != nil {
			return err
		}
		after, err := get()
		if err != nil {
			return err
		}
		same := func(x, y *xdpdv1.Chain) bool {
			return x.GetInterface() == y.GetInterface() && x.GetRevision() == y.GetRevision()
		}
		if slices.EqualFunc(chains, after, same) {
			return a.printDump(after, programs.GetPrograms())
		}
		chains = after
	}
	return &failure{fmt.Errorf("the chains change all the time: what was read of them does not fit together; try again")}
}

func (a *app) printDump(chains []*xdpdv1.Chain, programs []*xdpdv1.Program) error {
	f := dumpFile{Programs: map[string]dumpProgram{}, Chains: map[string]dumpChain{}}
	used := map[string]bool{}
	for _, c := range chains {
		d := dumpChain{Members: []dumpMember{}}
		if c.GetMode() != xdpdv1.Mode_MODE_UNSPECIFIED {
			d.Mode = word(c.GetMode())
		}
		if c.GetFinalVerdict() != xdpdv1.Verdict_VERDICT_UNSPECIFIED {
			d.Final = word(c.GetFinalVerdict())
		}
		for _, m := range c.GetMembers() {
			used[m.GetProgram()] = true
			proceed := []string{}
			for _, v := range m.GetProceedOn() {
				proceed = append(proceed, word(v))
			}
			d.Members = append(d.Members, dumpMember{m.GetProgram(), m.GetPriority(), proceed, m.GetEnabled()})
		}
		f.Chains[c.GetInterface()] = d
	}
	for _, p := range programs {
		if used[p.GetName()] {
			f.Programs[p.GetName()] = dumpOf(p)
		}
	}
	text, err := json.Marshal(f)
	if err != nil {
		return &failure{fmt.Errorf("encode the chains: %w", err)}
	}
	var b bytes.Buffer
	if err := writeYAML(&b, text); err != nil {
		return &failure{fmt.Errorf("encode the chains: %w", err)}
	}
	if _, err := b.WriteTo(a.out); err != nil {
		return &failure{fmt.Errorf("print the chains: %w", err)}
	}
	return nil
}

func dumpOf(p *xdpdv1.Program) dumpProgram {
	s := p.GetSettings()
	d := dumpProgram{
		Object:        sumPrefix + p.GetObjectSha256(),
		Function:      p.GetFunction(),
		Globals:       map[string]json.RawMessage{},
		MaxEntries:    s.GetMaxEntries(),
		ShareMapsFrom: s.GetShareMapsFrom(),
		MapGroup:      s.GetMapGroup(),
	}
	if p.GetLifetime() != xdpdv1.Lifetime_LIFETIME_UNSPECIFIED {
		d.Lifetime = word(p.GetLifetime())
	}
	for name, value := range s.GetGlobals() {
		d.Globals[name] = json.RawMessage(value)
	}
	return d
}
