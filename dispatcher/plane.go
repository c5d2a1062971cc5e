// SPDX-License-Identifier: Apache-2.0

// Package dispatcher makes every bpf(2) call of xdpd: it loads programs, links them into revisions, swaps
// revisions on interfaces, reads their counters, and finds what runs by looking at its pins.
//
// All it keeps is in a folder of BPF FS:
//
//	programs/<id>/prog                        the program as EXT (freplace)
//	programs/<id>/maps/<name>                 its maps, each dot of a name written as @
//	programs/<id>/shapes/<name>               symbolic links: what else must be known of a map before another program uses it
//	chains/<netns>-<ifindex>/link             the XDP link of the interface
//	chains/<netns>-<ifindex>/rev-<n>/dispatcher, counters, slot-<nn>
//
// Pins own: between calls the package holds no BPF descriptors but those of a Staged and a Shadow. What pins there are
// it only remembers (Learn), to notice that somebody removed one (Damage), and to make it again of an object that is alive
// (Restore); it does the same for the folder as a whole (Folder, Retake). It imports
// chain and cilium/ebpf, and nothing else imports cilium/ebpf.
package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/failpoint"
)

// The linkers' names, and Auto, which chooses.
const (
	Auto     = "auto"
	Freplace = "freplace"
	Inline   = "inline"
)

// Plane is the data plane of one daemon: a folder in BPF FS and the linker for new revisions.
type Plane struct {
	root   string
	own    sync.Mutex // protects lock
	lock   *os.File   // the folder, with a lock on it
	linker linker
	probes []Probe
	way    sync.Mutex // protects the modes of the folders on the way to programs, and the programs' names in there
	reason string
	loads  *semaphore.Weighted // of loadsAtOnce

	inventory inventory
}

// linker puts programs into the slots of a revision.
type linker interface {
	// load loads the program of o and whatever it calls into the kernel, in the form that the linker needs,
	// with fresh maps but for those in replace. The caller closes the collection.
	load(o *Object, replace map[string]*ebpf.Map) (*ebpf.Collection, error)
	// keep pins in folder dir what the linker needs of a loaded program besides its maps.
	keep(prog *ebpf.Program, dir string) error
	// frags tells whether a dispatcher of these members can take packets of more than one buffer.
	frags(members []member) bool
	// link loads a dispatcher that runs the members of b. The caller closes it.
	link(b blueprint) (*loaded, error)
}

// blueprint is what a dispatcher is made from.
type blueprint struct {
	members  []member
	final    chain.Verdict
	frags    bool      // it shall take packets of more than one buffer
	counters *ebpf.Map // where it counts
	trace    *ebpf.Map // where it notes what members return, of newTrace; nil: nowhere
}

// member is a program on its way into a slot.
type member struct {
	name      string
	dir       string // the program's folder
	object    *Object
	proceedOn chain.ProceedOn
	maps      map[string]*ebpf.Map // what it shall work on instead of its pinned maps; nil: those
}

// Device is an interface as BPF sees it, and names the pins of its chain.
type Device struct {
	Netns   uint64 // the cookie of its network namespace
	Ifindex int
	// Use is 0 but where the interface that had the index before lives on with its pins, in another namespace: a number of
	// the caller's that tells the two apart.
	Use int
}

// Open takes the folder root in BPF FS, after making it if need be, and probes the kernel for what choice (a
// linker or Auto) needs. The folder is refused if it is not in a BPF FS, not a folder of ours (owned by this
// user, mode 0700 or 0711, with the folders of a plane in it or nothing), or taken by another daemon.
func Open(root, choice string) (*Plane, error) {
	// Before Linux 5.11 maps count against a limit that is far too small for them.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory: %w", err)
	}
	p := &Plane{root: root, loads: semaphore.NewWeighted(loadsAtOnce)}
	if err := p.take(); err != nil {
		return nil, err
	}
	if err := p.choose(choice); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// OpenForTeardown is Open without probes: what it returns can Teardown and Close, and nothing else.
func OpenForTeardown(root string) (*Plane, error) {
	p := &Plane{root: root}
	if err := p.take(); err != nil {
		return nil, err
	}
	return p, nil
}

// Root is the folder in BPF FS.
func (p *Plane) Root() string { return p.root }

// Linker is the name of the linker for new revisions, and why that one.
func (p *Plane) Linker() (name, reason string) {
	if _, ok := p.linker.(*freplaceLinker); ok {
		return Freplace, p.reason
	}
	return Inline, p.reason
}

// Probes are what was found about the kernel when the plane was opened.
func (p *Plane) Probes() []Probe { return slices.Clone(p.probes) }

// Close lets go of the folder and touches nothing in it.
func (p *Plane) Close() error {
	p.own.Lock()
	defer p.own.Unlock()
	return p.lock.Close()
}

const bpffsMagic = 0xcafe4a11 // BPF_FS_MAGIC, linux/magic.h

func (p *Plane) take() error {
	if err := p.inBPFFS(); err != nil {
		return err
	}
	var err error
	for range 10 { // its owner may remove it before it is locked here
		if p.lock, err = lockFolder(p.root); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return err
	}
	if err := p.sweepUnfinished(); err != nil {
		return errors.Join(err, p.Close())
	}
	if err := p.frame(); err != nil {
		return errors.Join(err, p.Close())
	}
	return nil
}

// frame makes the two folders in which all others are.
func (p *Plane) frame() error {
	for _, dir := range []string{"programs", "chains"} {
		if err := mkdir(filepath.Join(p.root, dir)); err != nil {
			return err
		}
	}
	return nil
}

// lockFolder makes the folder if need be, and locks it. With an fs.ErrNotExist it was removed meanwhile.
func lockFolder(root string) (*os.File, error) {
	if err := os.Mkdir(root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the folder for pins: %w", err)
	}
	if err := checkOurs(root); err != nil {
		return nil, err
	}
	f, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("open the folder for pins: %w", err)
	}
	if err := lockInPlace(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockInPlace locks f, the folder for pins, and makes sure that it is still the one of that name: another, or none,
// is an fs.ErrNotExist.
func lockInPlace(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: %s is locked", ErrTaken, f.Name())
	}
	locked, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at the folder for pins: %w", err)
	}
	now, err := os.Lstat(f.Name())
	if err != nil {
		return fmt.Errorf("look at the folder for pins: %w", err)
	}
	if !os.SameFile(locked, now) {
		return fmt.Errorf("lock %s: it was replaced meanwhile: %w", f.Name(), fs.ErrNotExist)
	}
	return nil
}

// checkOurs refuses a folder that somebody else could have made.
func checkOurs(root string) error {
	info, err := os.Lstat(root)
	if err != nil {
		return fmt.Errorf("look at the folder for pins: %w", err)
	}
	// Load makes it 0711 for groups that may open maps.
	if mode := info.Mode().Perm(); !info.IsDir() || mode != 0o700 && mode != 0o711 {
		return fmt.Errorf("%s exists and is not xdpd's: it has mode %v, not a folder of 0700 or 0711 (remove it, or set another bpffs in the configuration)", root, info.Mode())
	}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return fmt.Errorf("look at the folder for pins: %w", err)
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s exists and is not xdpd's: it belongs to uid %d (remove it, or set another bpffs in the configuration)", root, st.Uid)
	}
	names, err := readDir(root)
	if err != nil {
		return err
	}
	ours := slices.Contains(names, "programs") && slices.Contains(names, "chains") // whatever somebody has put beside them
	for _, name := range names {
		if !ours && name != "programs" && name != "chains" {
			return fmt.Errorf("%s exists and is not xdpd's: it has a foreign entry %q (remove it, or set another bpffs in the configuration)", root, name)
		}
	}
	return nil
}

// Teardown detaches every link at once and removes every pin and the folder, also where somebody renamed it or mounted over
// it; what is in its place then is not touched. It goes on over errors and returns all of them. The plane is of no use
// afterwards but to Close.
func (p *Plane) Teardown() error {
	lost := errors.Is(p.Folder(), ErrFolderLost)
	if lost {
		defer func(root string) { p.root = root }(p.root)
		p.root = p.opened()
	}
	devices, err := p.Devices()
	errs := []error{err}
	learned, _ := p.learned() // somebody may have moved their folders
	for _, d := range learned {
		if !slices.Contains(devices, d) {
			devices = append(devices, d)
		}
	}
	for _, d := range devices {
		errs = append(errs, p.Detach(d))
	}
	programs, err := p.Programs()
	errs = append(errs, err)
	for _, id := range programs {
		errs = append(errs, p.Unload(id))
	}
	failpoint.Hit(failpoint.StopDetached)
	if lost {
		return errors.Join(append(errs, p.leave())...)
	}
	return errors.Join(append(errs, removeTree(p.root))...)
}

// Devices are the interfaces that have pins, whether they still exist or not.
func (p *Plane) Devices() ([]Device, error) {
	names, err := readDir(filepath.Join(p.root, "chains"))
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, name := range names {
		if d, ok := parseDevice(name); ok {
			devices = append(devices, d)
		}
	}
	return devices, nil
}

// parseDevice is the device of a folder in chains.
func parseDevice(name string) (d Device, ok bool) {
	netns, index, _ := strings.Cut(name, "-")
	index, use, again := strings.Cut(index, "-")
	var errs [3]error
	d.Netns, errs[0] = strconv.ParseUint(netns, 10, 64)
	d.Ifindex, errs[1] = strconv.Atoi(index)
	if again {
		d.Use, errs[2] = strconv.Atoi(use)
	}
	return d, errors.Join(errs[:]...) == nil
}

func (p *Plane) programDir(id uint64) string {
	return filepath.Join(p.root, "programs", strconv.FormatUint(id, 10))
}

func (p *Plane) chainDir(d Device) string {
	name := fmt.Sprintf("%d-%d", d.Netns, d.Ifindex)
	if d.Use != 0 {
		name += fmt.Sprintf("-%d", d.Use)
	}
	return filepath.Join(p.root, "chains", name)
}

func (p *Plane) revisionDir(d Device, rev uint64) string {
	return filepath.Join(p.chainDir(d), "rev-"+strconv.FormatUint(rev, 10))
}

// mkdir makes a folder of ours; one that exists is fine.
func mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder for pins: %w", err)
	}
	return nil
}

// readDir lists a folder; an absent one is empty.
func readDir(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// removeTree removes pins and folders; an absent one is fine.
func removeTree(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
