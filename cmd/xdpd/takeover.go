// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/server"
	"github.com/xdpd/xdpd/store"
)

// checkCommand is what a daemon calls in the program that is to take over from it. Between versions it may only
// grow: what they do not know they ignore.
const checkCommand = "check-takeover"

// running is what a daemon tells of itself in the flag --running.
type running struct {
	Version  string `json:"version"`
	Schema   uint64 `json:"schema"` // of its store
	Socket   string `json:"socket"`
	StateDir string `json:"state_dir"`
	BPFFS    string `json:"bpffs"`
}

// answer is the line that says that a program can take over.
type answer struct {
	CanTakeOver bool   `json:"can_take_over"`
	Version     string `json:"version"`
	Schema      uint64 `json:"schema"` // the newest that it reads
}

func self(cfg config) running {
	return running{Version: version, Schema: store.Schema, Socket: cfg.socket, StateDir: cfg.stateDir, BPFFS: cfg.bpffs}
}

// readable returns an error unless a program that reads stores up to this schema reads that of r.
func (r running) readable(version string, schema uint64) error {
	if schema >= r.Schema {
		return nil
	}
	return fmt.Errorf("that would be a downgrade: version %s reads stores up to schema %d, and the store of the daemon that runs, version %s, has schema %d; install a version that reads it",
		version, schema, r.Version, r.Schema)
}

// checkTakeover looks whether a daemon with this configuration could take over from the one that text, the flag
// --running, tells of, without taking anything of it. It says so in one line to stdout, or returns why not.
func checkTakeover(d daemon, cfg config, text string, stdout io.Writer) error {
	if err := failpoint.Err(failpoint.ReloadCheck); err != nil {
		return err
	}
	var r running
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return fmt.Errorf("read --running: %w", err)
	}
	if err := r.readable(version, store.Schema); err != nil {
		return err
	}
	for _, place := range []struct{ key, now, next string }{
		{"socket", r.Socket, cfg.socket}, {"state_dir", r.StateDir, cfg.stateDir}, {"bpffs", r.BPFFS, cfg.bpffs},
	} {
		if place.now != place.next {
			return fmt.Errorf("%s is %s now and %s in the configuration: a change of it takes a stop and a start", place.key, place.now, place.next)
		}
	}
	if err := store.Openable(filepath.Join(cfg.stateDir, store.FileName)); err != nil {
		return err
	}
	if _, err := server.CheckSocket(cfg.socket, cfg.socketGroup); err != nil {
		return err
	}
	if err := d.probe(cfg.linker); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(answer{CanTakeOver: true, Version: version, Schema: store.Schema})
}
