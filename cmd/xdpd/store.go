// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/xdpd/xdpd/store"
)

// storeCommands are for the store's file, also of a daemon that runs, and also a damaged one.
func storeCommands(stdout io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Check the store's file, save what is intact in it, make a new one of that",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("no command given; see %s --help", cmd.CommandPath())
		},
	}
	cmd.AddCommand(
		storeCommand("check", "Tell what is in the store and what is wrong with it; also while a daemon uses it", cobra.NoArgs,
			func(path string, _ []string) error { return checkStore(path, stdout) }),
		storeCommand("export ARCHIVE", "Write what is intact of the store to a new archive; also while a daemon uses it", cobra.ExactArgs(1),
			func(path string, args []string) error { return exportStore(path, args[0], stdout) }),
		storeCommand("import ARCHIVE", "Make a new store of an archive; refused where there is a store", cobra.ExactArgs(1),
			func(path string, args []string) error { return importStore(path, args[0], stdout) }),
	)
	return cmd
}

// storeCommand makes a command that is about the store of a configuration, or the file that --file names.
func storeCommand(use, short string, args cobra.PositionalArgs, do func(path string, args []string) error) *cobra.Command {
	var file string
	cmd := configured(use, short, func(cmd *cobra.Command, cfg config) error {
		path := file
		if !cmd.Flags().Changed("file") {
			path = filepath.Join(cfg.stateDir, store.FileName)
		}
		return work(do(path, cmd.Flags().Args()))
	})
	cmd.Args = args
	cmd.Flags().StringVar(&file, "file", "", "the store's file (default "+store.FileName+" in state_dir)")
	return cmd
}

// errFound ends a command that did its work and found something wrong, which it told.
var errFound = errors.New("the store is not as it should be")

func checkStore(path string, stdout io.Writer) error {
	r, err := store.Look(path)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "file: %s\nsize: %d\n", path, r.Size)
	if r.Schema == 0 {
		b.WriteString("schema: unknown\n")
	} else {
		fmt.Fprintf(&b, "schema: %d (this xdpd writes %d)\n", r.Schema, store.Schema)
	}
	held := "no process"
	if r.Held {
		held = "a process, such as a daemon that runs"
	}
	fmt.Fprintf(&b, "in use by: %s\n", held)
	fmt.Fprintf(&b, "intact: %s, %d objects\n", counts(r.Content), r.Objects)
	fmt.Fprintf(&b, "wrong: %d\n", len(r.Found))
	for _, err := range r.Found {
		fmt.Fprintf(&b, "- %v\n", err)
	}
	if _, err := io.WriteString(stdout, b.String()); err != nil {
		return err
	}
	if len(r.Found) > 0 {
		return errFound
	}
	return nil
}

func exportStore(path, archive string, stdout io.Writer) error {
	c, err := store.Export(path, archive)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "wrote: %s\nintact: %s\nlost: %d\n", archive, counts(c), len(c.Lost))
	for _, l := range c.Lost {
		fmt.Fprintf(&b, "- %s: %s\n", l.What, l.Why)
	}
	if _, err := io.WriteString(stdout, b.String()); err != nil {
		return err
	}
	if len(c.Lost) > 0 {
		return fmt.Errorf("%w: the archive has the rest", errFound)
	}
	return nil
}

func importStore(path, archive string, stdout io.Writer) error {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	c, err := store.Import(path, in)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "wrote: %s\nnow in it: %s\n", path, counts(c))
	return err
}

func counts(c store.Content) string {
	return fmt.Sprintf("%d programs, %d chains, %d entries of the history, %d pending changes, %d leases",
		len(c.Programs), len(c.Chains), len(c.History), len(c.Pending), len(c.Leases))
}
