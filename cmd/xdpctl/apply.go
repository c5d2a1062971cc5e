// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const (
	maxChainFile = 4 << 20  // bytes of a file of chains
	maxObjects   = 48 << 20 // bytes of all objects of one request, which has to fit into a message
)

const applyHelp = `Give interfaces exactly the chains that a file says, and programs the objects and settings of it: on all of them
or on none, by one swap for each interface. What is so already is not touched, and a file that changes nothing
loads nothing. Interfaces that the file does not name keep their chains.

FILE is YAML or JSON; - is standard input. xdpctl chain -o yaml prints such a file of the chains that there are.

  programs:
    blocklist:
      object: blocklist.o        # a path, relative to the file, or sha256:<64 hex digits> of an object that the
                                 # daemon has; without it the object that the program has
      function: blocklist        # needed where the object has several XDP programs
      lifetime: persistent       # or daemon; lease only for a program that is of a lease already
      globals: {limit: 10, name: eth0, ports: [80, 443]}
      max_entries: {table: 4096}
      share_maps_from: other
      map_group: monitor
  chains:
    eth0:                        # or NETNS:NAME, an interface in another network namespace
      mode: auto                 # or native, generic
      final: pass                # what a packet gets that passed all members
      members:                   # in the order in which they run; [] takes the chain from the interface
        - program: blocklist
          priority: 10
          proceed_on: [pass]     # [] or none: every verdict is final
          enabled: true
        - ratelimit              # a name alone is a member with defaults

A program that is in a chain and not under programs stays as it is; one whose globals, max_entries, share_maps_from
and map_group are all left out keeps its settings, and globals: {} takes them away. An unknown key, a key that
comes twice, a second document and an empty file are errors; anchors, aliases and tags are not supported.

` + changeHelp

func (a *app) apply() *cobra.Command {
	o := &changeFlags{}
	var file string
	var freshMaps bool
	cmd := &cobra.Command{
		Use:               "apply -f FILE|- [--fresh-maps]",
		Short:             "Give interfaces the chains that a file says",
		Long:              applyHelp,
		Example:           "  xdpctl apply -f chains.yaml --dry-run\n  xdpctl apply -f chains.yaml --confirm-within 60s",
		Args:              atMost(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return fmt.Errorf("-f FILE is missing")
			}
			opts, err := o.options(cmd)
			if err != nil {
				return err
			}
			req, err := a.setChains(cmd, file)
			if err != nil {
				return &failure{err}
			}
			req.FreshMaps, req.Options = freshMaps, opts
			return change(a, cmd, o, func(ctx context.Context, c *client.Client) (*xdpdv1.SetChainsResponse, error) {
				return c.SetChains(ctx, req)
			}, func(w io.Writer, resp *xdpdv1.SetChainsResponse) { outline(w, resp) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "the `FILE`, or - for standard input")
	f.BoolVar(&freshMaps, "fresh-maps", false, "make the maps of programs that are replaced anew")
	o.register(cmd, a)
	if err := cmd.MarkFlagFilename("file", "yaml", "yml", "json"); err != nil {
		panic(err) // the flag does not exist: a mistake in this program
	}
	return cmd
}

// setChains reads a file of chains and the objects that it names.
func (a *app) setChains(cmd *cobra.Command, file string) (*xdpdv1.SetChainsRequest, error) {
	data, err := a.readFile(cmd.Context(), file, maxChainFile)
	if err != nil {
		return nil, fmt.Errorf("read the chains: %w", err)
	}
	name, dir := file, filepath.Dir(file)
	if file == "-" {
		name, dir = "standard input", "."
	}
	f, err := parseChains(data)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", name, err)
	}
	req := &xdpdv1.SetChainsRequest{Chains: f.chains}
	if req.Objects, err = a.loadObjects(cmd, f.programs, dir); err != nil {
		return nil, fmt.Errorf("%s:%w", name, err)
	}
	for _, p := range f.programs {
		req.Programs = append(req.Programs, p.spec)
	}
	return req, nil
}

// loadObjects reads the objects of programs, relative to dir and each once, and puts their sha256 into the specs.
func (a *app) loadObjects(cmd *cobra.Command, programs []*fileProgram, dir string) ([][]byte, error) {
	var objects [][]byte
	total := 0
	sums := map[string]string{} // by path
	have := map[string]bool{}   // by sha256
	for _, p := range programs {
		if p.path == "" {
			continue
		}
		path := filepath.Clean(p.path)
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if path == "-" {
			path = "./-" // a file, and not standard input
		}
		if _, read := sums[path]; !read {
			object, err := a.readObject(cmd.Context(), path)
			if err != nil {
				return nil, at(p.object, "%s", err)
			}
			digest := sha256.Sum256(object)
			sums[path] = hex.EncodeToString(digest[:])
			if !have[sums[path]] {
				have[sums[path]] = true
				objects = append(objects, object)
				total += len(object)
			}
			if total > maxObjects {
				return nil, at(p.object, "with this object all of them are larger than %d MiB, the most for one request", maxObjects>>20)
			}
		}
		p.spec.ObjectSha256 = sums[path]
	}
	return objects, nil
}
