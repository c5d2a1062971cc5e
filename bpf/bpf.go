// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the compiled dispatcher, bpf/dispatcher.c, and the header for authors of programs.
// It imports nothing but embed; `make generate` makes the object anew.
package bpf

import _ "embed"

// Dispatcher is the ELF object of dispatcher.c.
//
//go:embed dispatcher.o
var Dispatcher []byte

// DispatcherTrace is dispatcher.c compiled with TRACE: its .bss has two words for each slot, whether the member
// there ran and what it returned.
//
//go:embed dispatcher_trace.o
var DispatcherTrace []byte

// The marks of dispatcher.c: constants of `w = mark` instructions that are to be replaced before loading.
const (
	MarkProceed = 0x5d0d0000 // + slot: the proceed-on mask with bit 31 set, or 0 from the end of the chain on
	MarkFinal   = 0x5d0e0000 // the final verdict
)
