// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/control"
)

func decodeAdd(req *xdpdv1.AddProgramRequest, by control.Caller) (add control.AddRequest, err error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return add, err
	}
	add = control.AddRequest{
		Name: req.GetName(), Function: req.GetFunction(), Priority: req.Priority, Takeover: req.GetTakeover(),
	}
	if add.Object, err = decodeObject(req.GetObject(), req.GetObjectSha256()); err != nil {
		return add, err
	}
	if len(add.Object.Data) == 0 && add.Object.SHA256 == "" {
		return add, invalid("object", "it is empty; give it, or the object_sha256 of one that the daemon has")
	}
	if err := bounded("name", add.Name); err != nil {
		return add, err
	}
	if err := bounded("function", add.Function); err != nil {
		return add, err
	}
	if add.Interfaces, err = decodePlaces(req.GetInterfaces()); err != nil {
		return add, err
	}
	if len(add.Interfaces) == 0 {
		return add, invalid("interfaces", "name at least one")
	}
	if add.Position, err = decodePosition("position", req.GetPosition()); err != nil {
		return add, err
	}
	if add.ProceedOn, err = decodeProceedOn("proceed_on", req.GetProceedOn()); err != nil {
		return add, err
	}
	if add.Mode, err = decodeMode("mode", req.GetMode()); err != nil {
		return add, err
	}
	if add.Lifetime, err = decodeLifetime("lifetime", req.GetLifetime()); err != nil {
		return add, err
	}
	if add.Lease, err = decodeLease(req.GetLease(), add.Lifetime); err != nil {
		return add, err
	}
	settings, err := decodeSettings("settings", req.GetSettings())
	if err != nil {
		return add, err
	}
	if settings != nil {
		add.Settings = *settings
	}
	add.Options, err = decodeOptions(req.GetOptions(), by)
	return add, err
}

// decodeLease takes the token of a lease, which a program of that lifetime has and others do not have.
func decodeLease(token string, lifetime control.Lifetime) (string, error) {
	switch {
	case lifetime == control.Leased && token == "":
		return "", invalid("lease", "it is empty; with LIFETIME_LEASE give the token that Hold answered")
	case lifetime != control.Leased && token != "":
		return "", invalid("lease", "it goes with LIFETIME_LEASE only")
	}
	return token, bounded("lease", token)
}

func decodeReplace(req *xdpdv1.ReplaceProgramRequest, by control.Caller) (replace control.ReplaceRequest, err error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return replace, err
	}
	replace = control.ReplaceRequest{Name: req.GetName(), Function: req.GetFunction(), FreshMaps: req.GetFreshMaps()}
	if err := given("name", replace.Name); err != nil {
		return replace, err
	}
	if replace.Object, err = decodeObject(req.GetObject(), req.GetObjectSha256()); err != nil {
		return replace, err
	}
	if err := bounded("function", replace.Function); err != nil {
		return replace, err
	}
	if replace.Settings, err = decodeSettings("settings", req.GetSettings()); err != nil {
		return replace, err
	}
	replace.Options, err = decodeOptions(req.GetOptions(), by)
	return replace, err
}

func decodeRemove(req *xdpdv1.RemoveProgramRequest, by control.Caller) (remove control.RemoveRequest, err error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return remove, err
	}
	remove.Name = req.GetName()
	if err := given("name", remove.Name); err != nil {
		return remove, err
	}
	if remove.Interfaces, err = decodePlaces(req.GetInterfaces()); err != nil {
		return remove, err
	}
	remove.Options, err = decodeOptions(req.GetOptions(), by)
	return remove, err
}

func decodeUpdates(req *xdpdv1.UpdateMembersRequest, by control.Caller) (update control.UpdateRequest, err error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return update, err
	}
	if n := len(req.GetUpdates()); n == 0 || n > maxUpdates {
		return update, invalid("updates", "there are %d, want 1 to %d", n, maxUpdates)
	}
	update.Updates = make([]control.Update, len(req.GetUpdates()))
	for i, u := range req.GetUpdates() {
		if update.Updates[i], err = decodeUpdate(fmt.Sprintf("updates[%d].", i), u); err != nil {
			return update, err
		}
	}
	update.Options, err = decodeOptions(req.GetOptions(), by)
	return update, err
}

func decodeUpdate(in string, u *xdpdv1.MemberUpdate) (update control.Update, err error) {
	update = control.Update{Program: u.GetProgram(), Priority: u.Priority, Enabled: u.Enabled}
	if err := given(in+"program", update.Program); err != nil {
		return update, err
	}
	if ref := u.GetInterface(); ref != "" {
		if update.Interface, err = decodeInterface(in+"interface", ref); err != nil {
			return update, err
		}
	}
	if update.Position, err = decodePosition(in+"position", u.GetPosition()); err != nil {
		return update, err
	}
	update.ProceedOn, err = decodeProceedOn(in+"proceed_on", u.GetProceedOn())
	return update, err
}

func decodeRollback(req *xdpdv1.RollbackRequest, by control.Caller) (back control.RollbackRequest, err error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return back, err
	}
	back = control.RollbackRequest{Revision: req.GetRevision(), Everywhere: req.GetEverywhere()}
	if back.Interface, err = decodeInterface("interface", req.GetInterface()); err != nil {
		return back, err
	}
	back.Options, err = decodeOptions(req.GetOptions(), by)
	return back, err
}

// checkID is for the number of a change that waits to be confirmed.
func checkID(id uint64) error {
	if id == 0 {
		return invalid("id", "give the number of the change")
	}
	return nil
}

func decodeOptions(o *xdpdv1.ChangeOptions, by control.Caller) (options control.Options, err error) {
	options = control.Options{DryRun: o.GetDryRun(), Comment: o.GetComment(), Caller: by}
	if options.Expected, err = decodeExpected(o.GetExpectedRevisions()); err != nil {
		return options, err
	}
	if options.ConfirmWithin, err = decodeConfirmWithin(o.GetConfirmWithin(), options.DryRun); err != nil {
		return options, err
	}
	return options, checkComment(options.Comment)
}

func decodeExpected(revisions map[string]uint64) (map[string]uint64, error) {
	const field = "options.expected_revisions"
	if n := len(revisions); n > maxInterfaces {
		return nil, invalid(field, "there are %d, at most %d are taken", n, maxInterfaces)
	}
	if len(revisions) == 0 {
		return nil, nil
	}
	expected := make(map[string]uint64, len(revisions))
	for _, ref := range slices.Sorted(maps.Keys(revisions)) {
		at := entry(field, ref)
		iface, err := decodeInterface(at, ref)
		if err != nil {
			return nil, err
		}
		if _, twice := expected[iface]; twice {
			return nil, invalid(at, "%q is in the map under another spelling too", iface)
		}
		expected[iface] = revisions[ref]
	}
	return expected, nil
}

func decodeConfirmWithin(d *durationpb.Duration, dryRun bool) (time.Duration, error) {
	const field = "options.confirm_within"
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, invalid(field, "it is not a duration: %v", err)
	}
	within := d.AsDuration()
	if within < minConfirm || within > maxConfirm {
		return 0, invalid(field, "%s is not within %s to %s", within, minConfirm, maxConfirm)
	}
	if dryRun {
		return 0, invalid(field, "a dry run changes nothing that could be confirmed")
	}
	return within, nil
}

// checkComment keeps out what would make a mess of a terminal or a log.
func checkComment(comment string) error {
	const field = "options.comment"
	if err := bounded(field, comment); err != nil {
		return err
	}
	if !utf8.ValidString(comment) {
		return invalid(field, "it is not UTF-8")
	}
	if i := strings.IndexFunc(comment, unicode.IsControl); i >= 0 {
		return invalid(field, "it has a control character at byte %d", i)
	}
	return nil
}
