// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

func init() { roles["reader"] = readerMain }

// report is what a reader found out.
type report struct {
	Ops     int
	Longest time.Duration
	Op      string // which one that was
	Errors  []string
}

// known is what a file must be.
type known struct {
	path    string
	stat    unix.Stat_t
	data    []byte
	entries []string
	link    string
}

// readerMain reads the tree in LIGHTER_TEST_TREE over and over until its input
// ends, and compares all with what it saw first. It says "ready" after that.
func readerMain() error {
	debug.SetPanicOnFault(true) // a mapping that cannot be read
	root := os.Getenv("LIGHTER_TEST_TREE")
	seed, err := strconv.ParseUint(os.Getenv("LIGHTER_TEST_SEED"), 10, 64)
	if err != nil {
		return err
	}
	all, err := learn(root)
	if err != nil {
		return err
	}
	var sfs unix.Statfs_t
	if err := unix.Statfs(root, &sfs); err != nil {
		return err
	}
	overlaid = sfs.Type == unix.OVERLAYFS_SUPER_MAGIC
	fmt.Println("ready")
	var stop atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	r := report{}
	measureSteps()
	rnd := rand.New(rand.NewPCG(seed, 1))
	ops := []struct {
		name string
		do   func(*rand.Rand, *known) error
	}{
		{"pread", pread}, {"direct", direct}, {"mmap", mapped}, {"stat", restat}, {"readdir", relist},
		{"absent", absent}, {"statfs", statfs}, {"xattr", xattr}, {"whole", whole},
	}
	for !stop.Load() {
		k := &all[rnd.IntN(len(all))]
		op := ops[rnd.IntN(len(ops))]
		step()
		before := longest
		err := guard(func() error { return op.do(rnd, k) })
		step()
		r.Ops++
		if longest > before {
			r.Longest, r.Op = longest, op.name
		}
		if err != nil && len(r.Errors) < 10 {
			r.Errors = append(r.Errors, fmt.Sprintf("%s %s: %v", op.name, k.path, err))
		}
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// A reader process waits in one system call or page fault at a time: step marks
// their ends, and longest is the longest of them.
var (
	step    = func() {}
	stepped time.Time
	longest time.Duration
)

func measureSteps() {
	stepped = time.Now()
	step = func() {
		now := time.Now()
		longest = max(longest, now.Sub(stepped))
		stepped = now
	}
}

// overlaid says that the reader's tree is an overlayfs.
var overlaid bool

func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("fault: %v", r)
		}
	}()
	return f()
}

func learn(root string) ([]known, error) {
	var all []known
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		k := known{path: p}
		if err := unix.Lstat(p, &k.stat); err != nil {
			return err
		}
		switch k.stat.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			k.data, err = os.ReadFile(p)
		case unix.S_IFDIR:
			k.entries, err = names(p)
		case unix.S_IFLNK:
			k.link, err = os.Readlink(p)
		}
		all = append(all, k)
		return err
	})
	return all, err
}

func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var n []string
	for {
		part, err := f.Readdirnames(500)
		step()
		n = append(n, part...)
		if err == io.EOF || err == nil && len(part) == 0 {
			slices.Sort(n)
			return n, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// uncached opens a file whose pages the kernel has been asked to drop.
func uncached(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|flags, 0)
	step()
	if err != nil {
		return nil, err
	}
	return f, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func (k *known) regular() bool { return k.stat.Mode&unix.S_IFMT == unix.S_IFREG }

func pread(rnd *rand.Rand, k *known) error {
	if !k.regular() || len(k.data) == 0 {
		return nil
	}
	f, err := uncached(k.path, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	off := rnd.IntN(len(k.data))
	p := make([]byte, rnd.IntN(256<<10)+1)
	n, err := f.ReadAt(p, int64(off))
	return compare(p[:n], k.data[off:min(len(k.data), off+len(p))], err)
}

func direct(rnd *rand.Rand, k *known) error {
	if !k.regular() || len(k.data) == 0 {
		return nil
	}
	f, err := uncached(k.path, unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) {
		return nil // overlayfs over a lower file system that has none
	}
	if err != nil {
		return err
	}
	defer f.Close()
	const page = 4096
	mem, err := unix.Mmap(-1, 0, 64*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	off := rnd.IntN(len(k.data)) / page * page
	n, err := f.ReadAt(mem, int64(off))
	return compare(mem[:n], k.data[off:min(len(k.data), off+len(mem))], err)
}

func mapped(rnd *rand.Rand, k *known) error {
	if !k.regular() || len(k.data) == 0 {
		return nil
	}
	f, err := uncached(k.path, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, len(k.data), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	const page = 4096
	for off := 0; off < len(mem); off += page {
		end := min(off+page, len(mem))
		if err := compare(mem[off:end], k.data[off:end], nil); err != nil {
			return err
		}
		step()
	}
	return nil
}

func whole(_ *rand.Rand, k *known) error {
	if !k.regular() {
		return nil
	}
	f, err := uncached(k.path, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 64<<10)
	for off := 0; ; {
		n, err := f.Read(p)
		step()
		if err == io.EOF && off == len(k.data) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("at %d of %d: %w", off, len(k.data), err)
		}
		if err := compare(p[:n], k.data[off:min(len(k.data), off+n)], nil); err != nil {
			return err
		}
		off += n
	}
}

func compare(got, want []byte, err error) error {
	if err != nil && err != io.EOF {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("wrong bytes: %d, want %d", len(got), len(want))
	}
	return nil
}

func restat(_ *rand.Rand, k *known) error {
	var st unix.Stat_t
	if err := unix.Lstat(k.path, &st); err != nil {
		return err
	}
	if k.stat.Mode&unix.S_IFMT == unix.S_IFDIR && overlaid {
		st.Ino = k.stat.Ino // overlayfs numbers directories of other file systems as they come
	}
	if st.Ino != k.stat.Ino || st.Mode != k.stat.Mode || st.Size != k.stat.Size || st.Mtim != k.stat.Mtim || st.Nlink != k.stat.Nlink {
		return fmt.Errorf("stat %+v, want %+v", st, k.stat)
	}
	if k.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		link, err := os.Readlink(k.path)
		if err != nil || link != k.link {
			return fmt.Errorf("link %q, %v, want %q", link, err, k.link)
		}
	}
	return nil
}

func relist(_ *rand.Rand, k *known) error {
	if k.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	n, err := names(k.path)
	if err == nil && !slices.Equal(n, k.entries) {
		err = fmt.Errorf("%d entries, want %d", len(n), len(k.entries))
	}
	return err
}

// absent asks for a name that nobody has asked for before.
func absent(rnd *rand.Rand, k *known) error {
	if k.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(k.path, fmt.Sprintf("absent-%x", rnd.Uint64())), &st)
	if err != unix.ENOENT {
		return fmt.Errorf("absent name: %w", err)
	}
	return nil
}

func statfs(_ *rand.Rand, k *known) error {
	if k.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	var st unix.Statfs_t
	return unix.Statfs(k.path, &st)
}

func xattr(_ *rand.Rand, k *known) error {
	if _, err := unix.Llistxattr(k.path, make([]byte, 64<<10)); err != nil {
		return err
	}
	_, err := unix.Lgetxattr(k.path, "user.absent", nil)
	if err == unix.ENODATA || err == unix.EPERM || err == unix.EOPNOTSUPP {
		return nil
	}
	return err
}
