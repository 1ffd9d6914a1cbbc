// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process (or another Dir of this one) uses the
// directory.
var ErrLocked = errors.New("cache directory is in use")

// ErrClosed is returned by calls on a closed Dir or Blob.
var ErrClosed = errors.New("cache is closed")

// Options adjusts a Dir; the zero value is the default.
type Options struct {
	// Limit is the number of bytes on disk above which the least recently used
	// blobs are removed in the background, those that nobody has open first; of
	// open ones, chunks that were not used for SweepPause go. 0 means no limit.
	Limit int64
	// SweepPause is the shortest time between two looks for unused chunks of an
	// open blob; 0 means 30 s.
	SweepPause time.Duration
	// Lock, if not nil, is an open file that whoever supervises this process
	// keeps locked (flock) for it; the directory's own lock file is then not
	// used. It stays the caller's to close.
	Lock *os.File
	// Logger receives the failures of background work; nil means slog.Default().
	Logger *slog.Logger
}

// Dir is a cache directory. One process uses it at a time.
type Dir struct {
	dir   string
	limit int64
	sweep time.Duration
	log   *slog.Logger
	lock  *os.File   // nil if it is somebody else's
	hints *hintTable // nil if it could not be opened

	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	noSpace atomic.Bool // the disk was full

	mu     sync.Mutex
	closed bool
	sets   map[string]*fileSet
	byKey  map[uint64]*fileSet
}

// fileSet is what one blob of one shape has on disk.
type fileSet struct {
	name string // base name without suffix
	key  uint64 // what hints call it

	// Guarded by Dir.mu.
	blob *Blob // open, or nil
	refs int
	used time.Time
	size int64 // bytes on disk as of the last look, for sets that are not open
}

// Open locks dir, creating it if needed, and lists what it holds. The error
// wraps ErrLocked if another process has it, and names that process.
func Open(dir string, o Options) (*Dir, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.SweepPause <= 0 {
		o.SweepPause = 30 * time.Second
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs"), 0o700); err != nil {
		return nil, fmt.Errorf("create cache: %w", err)
	}
	var lock *os.File
	var err error
	if o.Lock != nil {
		// Succeeds at once if the supervisor locked this very open file.
		if err = unix.Flock(int(o.Lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil, fmt.Errorf("%w: %s, by the holder of %s: %w", ErrLocked, dir, o.Lock.Name(), err)
		}
	} else if lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	d := &Dir{
		dir: dir, limit: o.Limit, sweep: o.SweepPause, log: o.Logger, lock: lock,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		sets: map[string]*fileSet{}, byKey: map[uint64]*fileSet{},
	}
	if err := d.scan(); err != nil {
		if lock != nil {
			lock.Close()
		}
		return nil, err
	}
	if d.hints, err = openHints(filepath.Join(dir, "hints")); err != nil {
		d.log.Warn("cache works without finding chunks in other blobs", "err", err)
	}
	go d.evictLoop()
	d.awake()
	return d, nil
}

// scan lists the file sets and removes data that has no map.
func (d *Dir) scan() error {
	entries, err := os.ReadDir(filepath.Join(d.dir, "blobs"))
	if err != nil {
		return fmt.Errorf("list cache: %w", err)
	}
	for _, e := range entries {
		name, isMap := strings.CutSuffix(e.Name(), ".map")
		if !isMap {
			data, isData := strings.CutSuffix(e.Name(), ".data")
			if _, err := os.Lstat(d.path(data + ".map")); isData && errors.Is(err, os.ErrNotExist) {
				os.Remove(d.path(e.Name()))
			}
			continue
		}
		s := d.addSet(name)
		if fi, err := e.Info(); err == nil {
			s.used = fi.ModTime()
		}
		s.size = diskSize(d.path(name + ".data"))
	}
	return nil
}

func (d *Dir) addSet(name string) *fileSet {
	s := &fileSet{name: name, key: nameKey(name), used: time.Now()}
	d.sets[name] = s
	d.byKey[s.key] = s
	return s
}

func (d *Dir) path(base string) string { return filepath.Join(d.dir, "blobs", base) }

// diskSize is what a file takes on disk, in bytes; 0 if it is not there.
func diskSize(path string) int64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// Blob opens the file set of a blob, creating it if needed, and keeps it from
// being evicted until Close has been called as often as Blob. All callers of
// the same id and geometry share one Blob.
func (d *Dir) Blob(id string, g Geometry) (*Blob, error) {
	if err := g.check(); err != nil {
		return nil, fmt.Errorf("cache blob %.80q: %w", id, err)
	}
	name := setName(id, g)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, ErrClosed
	}
	s := d.sets[name]
	if s == nil {
		s = d.addSet(name)
	}
	if s.blob == nil {
		b, err := openBlob(d, s, g)
		if err != nil {
			return nil, fmt.Errorf("cache blob %.80q: %w", id, err)
		}
		s.blob = b
	}
	s.refs++
	s.used = time.Now()
	return s.blob, nil
}

func (d *Dir) release(s *fileSet) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.refs--; s.refs > 0 {
		return
	}
	s.used = time.Now()
	s.size = s.blob.close(s.used)
	s.blob = nil
	d.awake()
}

// Usage is the number of bytes that cached chunks take on disk, and how much of
// it belongs to open blobs.
func (d *Dir) Usage() (total, open int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.usage()
}

func (d *Dir) usage() (total, open int64) {
	for _, s := range d.sets {
		if s.blob != nil {
			open += s.blob.alloc.Load()
		} else {
			total += s.size
		}
	}
	return total + open, open
}

// Close waits for background work and unlocks the directory. Blobs that are
// still open must not be used afterwards.
func (d *Dir) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return ErrClosed
	}
	d.closed = true
	d.mu.Unlock()
	close(d.stop)
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sets {
		if s.blob != nil {
			s.size = s.blob.close(time.Now())
		}
	}
	if d.hints != nil {
		d.hints.close()
	}
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}
