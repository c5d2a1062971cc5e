// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// loadsAtOnce is how many programs are verified at a time. The kernel takes up to some seconds for one and some
// hundred megabytes, and cannot be told to stop: others share the processors with it, and wait where there are more.
const loadsAtOnce = 8

// tracedInstructions is how many instructions the verifier may have looked at for a log that names each: that takes some hundred
// bytes for one. The limit of the kernel is a million.
const tracedInstructions = 100_000

// verified loads with load what the kernel verifies. Only if it is refused the verifier is asked why: with a log it
// takes ten times as long.
func verified[T any](load func(ebpf.ProgramOptions) (T, error)) (T, error) {
	loaded, err := load(ebpf.ProgramOptions{LogDisabled: true})
	if err != nil {
		return explained(load, err)
	}
	return loaded, nil
}

// explained is verified for what was refused already, with refusal. The log has the instructions on the way to the
// refusal unless they are too many.
func explained[T any](load func(ebpf.ProgramOptions) (T, error), refusal error) (T, error) {
	var none T
	var silent, brief *ebpf.VerifierError
	if !errors.As(refusal, &silent) {
		return none, refusal
	}
	loaded, err := load(ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats})
	if err == nil {
		return loaded, nil
	}
	if !errors.As(err, &brief) || processed(brief.Log) <= tracedInstructions {
		return load(ebpf.ProgramOptions{LogLevel: ebpf.LogLevelBranch, LogSizeStart: 1 << 20})
	}
	// Errors have their texts already, and the last line of this log does not say what is wrong.
	silent.Log = brief.Log
	return none, fmt.Errorf("%w: %s", refusal, complaint(brief.Log))
}

// complaint is the line of a log that says what is wrong: the last one before the verifier tells of its work.
func complaint(log []string) string {
	for _, line := range slices.Backward(log) {
		work := slices.ContainsFunc([]string{"verification time ", "stack depth ", "processed "}, func(begin string) bool { return strings.HasPrefix(line, begin) })
		if !work {
			return line
		}
	}
	return "the verifier does not say why"
}

// newCollection loads programs, with maps of their own but for those in replace. The caller closes it.
func newCollection(spec *ebpf.CollectionSpec, replace map[string]*ebpf.Map) (*ebpf.Collection, error) {
	return verified(func(o ebpf.ProgramOptions) (*ebpf.Collection, error) {
		return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace, Programs: o})
	})
}

// processed is how many instructions the verifier looked at, as its log says (print_verification_stats in
// kernel/bpf/verifier.c); 0: it does not say.
func processed(log []string) (n int) {
	for _, line := range slices.Backward(log) {
		if _, err := fmt.Sscanf(line, "processed %d insns", &n); err == nil {
			return n
		}
	}
	return 0
}

// LoadContext is Load that waits for its turn only until the context ends: of many programs only some are verified at a
// time. A load that has begun ends before it returns, whatever becomes of the context.
func (p *Plane) LoadContext(ctx context.Context, l Load) (origins []MapOrigin, err error) {
	done, err := p.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return p.load(l)
}

// turn waits until it is the caller's turn to have something verified. The caller calls done.
func (p *Plane) turn(ctx context.Context) (done func(), err error) {
	if err := p.loads.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("wait for other programs to be verified: %w", context.Cause(ctx))
	}
	return func() { p.loads.Release(1) }, nil
}

// link is the linker's, in its turn.
func (p *Plane) link(ctx context.Context, b blueprint) (*loaded, error) {
	done, err := p.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return p.linker.link(b)
}
