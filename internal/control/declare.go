// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/store"
)

// SetChains gives interfaces exactly the chains of the request, and programs what it says of them.
func (c *Controller) SetChains(ctx context.Context, r SetRequest) (Outcome, error) {
	if len(r.Chains) == 0 {
		return Outcome{}, chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "chains"}, "there is no chain in the request")
	}
	var names []string
	for _, spec := range r.Chains {
		names = append(names, spec.Interface)
	}
	slices.Sort(names)
	parsed := map[string]wanted{} // compute is called more than once
	res, err := c.mutate(ctx, r.Options, func() (goal, error) {
		g := newGoal("apply to " + strings.Join(names, ","))
		for _, spec := range r.Programs {
			if err := c.declareProgram(&g, spec, r, parsed); err != nil {
				return g, err
			}
		}
		for _, spec := range r.Chains {
			if err := c.declareChain(&g, spec); err != nil {
				return g, about(err, spec.Interface)
			}
		}
		return g, c.allPlaced(g, r.Programs)
	})
	return res.Outcome, err
}

// declareProgram adds a program to the goal if it is not yet what it shall be.
func (c *Controller) declareProgram(g *goal, spec ProgramSpec, r SetRequest, parsed map[string]wanted) error {
	if err := chain.ValidName(spec.Name); err != nil {
		return err
	}
	if err := checkLifetime(spec.Lifetime); err != nil {
		return err
	}
	old, exists, err := c.store.Program(spec.Name)
	if err != nil {
		return storeError(err)
	}
	next := old
	if !exists {
		next = store.Program{Name: spec.Name, Lifetime: string(Daemon), Added: time.Now().UTC(), OwnerUID: r.Options.Caller.UID}
	}
	if spec.Lifetime == Leased && next.Lease == 0 {
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "lifetime", "program": spec.Name},
			"program %q is of no lease, and cannot get one here: add it with its lease (xdpctl add --lifetime lease), or give it another lifetime", spec.Name)
	}
	if spec.Lifetime != "" {
		next.Lifetime = string(spec.Lifetime)
	}
	if next.Lifetime != string(Leased) {
		next.Lease = 0
	}
	if spec.Settings != nil {
		next.Settings = *spec.Settings
	}
	sha := spec.SHA256
	if sha == "" {
		sha = old.Object
	}
	if sha == "" {
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "object_sha256", "program": spec.Name},
			"program %q is new and has no object", spec.Name)
	}
	if exists && sha == old.Object && (spec.Function == "" || spec.Function == old.Function) && next.Settings.Equal(old.Settings) && !r.FreshMaps {
		if next.Lifetime != old.Lifetime {
			g.programs[spec.Name] = wanted{record: next}
		}
		return nil
	}
	key := fmt.Sprint(spec.Name, old.Function, sha, next.Settings)
	w, done := parsed[key]
	if !done {
		src := source{r.Objects[sha], sha}
		if src.data == nil {
			if src, err = c.source(Object{SHA256: sha}); err != nil {
				return err
			}
		}
		if w, err = newVersion(next, src, spec.Function); err != nil {
			return fmt.Errorf("program %q: %w", spec.Name, err)
		}
		parsed[key] = w
	}
	next.ID, next.Function, next.Object, next.Size = 0, w.record.Function, w.record.Object, w.record.Size
	w.record, w.fresh = next, r.FreshMaps
	if exists && sameVersion(old, next) && !r.FreshMaps {
		if next.Lifetime != old.Lifetime {
			next.ID = old.ID
			g.programs[spec.Name] = wanted{record: next}
		}
		return nil
	}
	g.programs[spec.Name] = w
	return nil
}

// declareChain adds an interface's chain to the goal.
func (c *Controller) declareChain(g *goal, spec ChainSpec) error {
	if _, twice := g.chains[spec.Interface]; twice {
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "chains"}, "interface %q is in the request twice", spec.Interface)
	}
	next, err := c.base(spec.Interface, spec.Mode)
	if err != nil {
		return err
	}
	next.Final = chain.Pass
	if spec.Final != nil {
		next.Final = *spec.Final
	}
	drafts := make([]chain.Draft, len(spec.Members))
	for i, m := range spec.Members {
		drafts[i] = chain.Draft{Member: chain.Member{Program: m.Program, ProceedOn: chain.Of(chain.Pass), Disabled: m.Disabled}, Priority: m.Priority}
		if m.ProceedOn != nil {
			drafts[i].ProceedOn = *m.ProceedOn
		}
		if _, described := g.programs[m.Program]; described {
			continue
		}
		if _, err := c.existing(m.Program); err != nil {
			return err
		}
	}
	if next.Members, err = chain.Arrange(drafts); err != nil {
		return err
	}
	if err := next.Validate(); err != nil {
		return err
	}
	g.chains[spec.Interface] = next
	return nil
}

// allPlaced fails where a program is described that has no place in the end.
func (c *Controller) allPlaced(g goal, programs []ProgramSpec) error {
	chains, err := c.chains()
	if err != nil {
		return err
	}
	for _, spec := range programs {
		p, _, err := c.store.Program(spec.Name)
		if err != nil {
			return storeError(err)
		}
		placed := len(p.Patterns) > 0 || slices.ContainsFunc(chains, func(rec store.Chain) bool {
			_, changes := g.chains[rec.Interface]
			return !changes && rec.Chain.Index(spec.Name) >= 0
		})
		for _, next := range g.chains {
			placed = placed || next.Index(spec.Name) >= 0
		}
		if !placed {
			return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "programs", "program": spec.Name},
				"program %q is described, and is in no chain: place it, or leave it out", spec.Name)
		}
	}
	return nil
}
