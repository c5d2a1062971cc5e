// SPDX-License-Identifier: Apache-2.0

package store

import "errors"

var (
	// ErrDamaged is returned when a file is not a store, or a store that is damaged. Nothing in it was changed.
	ErrDamaged = errors.New("not a store of xdpd, or damaged")
	// ErrNewer is returned when a newer xdpd wrote the file. Nothing in it was changed.
	ErrNewer = errors.New("written by a newer xdpd")
	// ErrLocked is returned when another process holds the store open.
	ErrLocked = errors.New("in use by another process")
	// ErrUnsafe is returned when a file is not one that only its owner can read and write.
	ErrUnsafe = errors.New("not a private file of this user")
	// ErrGone is returned when the file of an open store was deleted or replaced by another one. Nothing was changed.
	ErrGone = errors.New("not the file that was opened any more")
	// ErrInvalid is returned when a change does not fit together or does not fit what is stored.
	ErrInvalid = errors.New("invalid change")
	// ErrNotFound is returned when there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrClosed is returned for anything asked of a store after Close.
	ErrClosed = errors.New("closed")
)
