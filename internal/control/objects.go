// SPDX-License-Identifier: Apache-2.0

package control

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os/user"
	"strconv"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/store"
)

// source is an object that a request names: its bytes, parsed at most once for each function and settings.
type source struct {
	data []byte
	sha  string
}

// source finds the object that a request means.
func (c *Controller) source(o Object) (source, error) {
	if o.SHA256 == "" {
		sum := sha256.Sum256(o.Data)
		return source{o.Data, hex.EncodeToString(sum[:])}, nil
	}
	data, err := c.store.Object(o.SHA256)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return source{}, chain.Errorf(chain.ObjectNotFound, chain.Facts{"sha256": o.SHA256},
			"no object with the sha256 %s is known: the daemon keeps those of its programs and of the history; send the object itself", o.SHA256)
	case err != nil:
		return source{}, storeError(err)
	}
	return source{data, o.SHA256}, nil
}

// configured parses an object and sets what a client wants set.
func configured(data []byte, function string, settings chain.Settings) (*dispatcher.Object, error) {
	o, err := dispatcher.ParseObject(data, function)
	if err != nil {
		return nil, err
	}
	return o.Configure(settings)
}

// groupID is the number of a group; 0 for none.
func groupID(group string) (int, error) {
	if group == "" {
		return 0, nil
	}
	number := group
	if g, err := user.LookupGroup(group); err == nil {
		number = g.Gid
	}
	id, err := strconv.ParseUint(number, 10, 31)
	if err != nil || id == 0 {
		return 0, chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "map_group"},
			"there is no group %q on this host that maps could be given to (root has them anyway)", group)
	}
	return int(id), nil
}
