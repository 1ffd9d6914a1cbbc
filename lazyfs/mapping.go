// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"lighter/format"
)

// mapping is a file mapped for reading. It outlives neither close nor, in
// contrast to a bare mapping, dies with the file: pages that cannot be read
// give an error.
type mapping struct {
	path string

	mu   sync.RWMutex // held for reading during an access, so that close waits
	data []byte       // nil when closed
}

// mapFile maps a regular file whose sha256 is digest ("sha256:<hex>", or empty
// for any). The digest is computed through read(2): a mapping that was read
// whole would count as memory of this process.
func mapFile(path, digest string) (*mapping, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	if digest != "" {
		if err := checkDigest(f, digest); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if fi.Size() == 0 || fi.Size() != int64(int(fi.Size())) {
		return nil, fmt.Errorf("%s: %w: size %d", path, format.ErrCorrupt, fi.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	// Look-ups jump about; reading ahead would bring in what nobody asked for.
	unix.Madvise(data, unix.MADV_RANDOM)
	return &mapping{path: path, data: data}, nil
}

func checkDigest(r io.Reader, want string) error {
	hexa, ok := strings.CutPrefix(want, "sha256:")
	if raw, err := hex.DecodeString(hexa); !ok || err != nil || len(raw) != sha256.Size {
		return fmt.Errorf("digest %.80q is not sha256:<64 hex digits>", want)
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 64<<10)); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != strings.ToLower(hexa) {
		return fmt.Errorf("%w: bootstrap has digest sha256:%s, wanted %s", format.ErrCorrupt, got, want)
	}
	return nil
}

// Size is the length of the file in bytes when it was mapped.
func (m *mapping) Size() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.data))
}

// ReadAt is io.ReaderAt.
func (m *mapping) ReadAt(p []byte, off int64) (n int, err error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.data == nil {
		return 0, fmt.Errorf("%s: %w", m.path, ErrClosed)
	}
	if off < 0 {
		return 0, fmt.Errorf("%s: read at offset %d", m.path, off)
	}
	if off >= int64(len(m.data)) {
		return 0, io.EOF
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, fault := r.(interface{ Addr() uintptr }); !fault {
				panic(r)
			}
			n, err = 0, fmt.Errorf("%s: %w: cut or unreadable at offset %d", m.path, format.ErrCorrupt, off)
		}
	}()
	if n = copy(p, m.data[off:]); n < len(p) {
		err = io.EOF
	}
	return n, err
}

// close unmaps when the last access has ended.
func (m *mapping) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		return ErrClosed
	}
	data := m.data
	m.data = nil
	return unix.Munmap(data)
}
