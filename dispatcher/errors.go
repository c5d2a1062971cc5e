// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// Errors that callers tell apart.
var (
	// ErrTaken is returned when another daemon holds the folder.
	ErrTaken = errors.New("another xdpd is running")
	// ErrBusy is returned by Stage when the interface has an XDP program that is not ours.
	ErrBusy = errors.New("the interface has an XDP program already")
	// ErrGone is returned when the interface of a link is gone, or its link was detached by somebody.
	ErrGone = errors.New("the link is not attached")
	// ErrForeign is returned when a link of ours runs a program that is none of our revisions.
	ErrForeign = errors.New("the link runs a program that is not ours")
	// ErrLost is returned by Restore when the kernel does not have any more what a pin was of.
	ErrLost = errors.New("lost with its pin")
	// ErrFolderLost is returned when the folder for pins is not any more the one that was opened.
	ErrFolderLost = errors.New("the folder for pins is lost")
)

// maxLog bounds how much of a verifier log goes into an error: the end, where the reason is.
const maxLog = 64 << 10

// refused turns a refusal by the kernel to load something into an error with the end of the verifier's log.
func refused(r chain.Reason, f chain.Facts, what string, err error) *chain.Error {
	var ve *ebpf.VerifierError
	if !errors.As(err, &ve) {
		if errors.Is(err, unix.EPERM) {
			return chain.Errorf(chain.Kernel, with(f, "error", plain(err)),
				"%s: operation not permitted (does xdpd have CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON?)", what)
		}
		return chain.Errorf(r, with(f, "error", err.Error()), "%s: %w", what, err)
	}
	e := chain.Errorf(r, f, "%s: %w", what, err)
	e.Log = fmt.Sprintf("%+v", ve)
	if len(e.Log) > maxLog {
		cut := e.Log[len(e.Log)-maxLog:]
		e.Log = cut[strings.IndexByte(cut, '\n')+1:]
	}
	return e
}

// plain is the text of an error without a hint of the library's that does not apply: the limit on locked memory
// is lifted when a plane is opened.
func plain(err error) string {
	return strings.ReplaceAll(err.Error(), " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", "")
}

// with is f and one more fact.
func with(f chain.Facts, key, value string) chain.Facts {
	out := chain.Facts{key: value}
	for k, v := range f {
		out[k] = v
	}
	return out
}
