// SPDX-License-Identifier: Apache-2.0

package format

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"time"

	"lighter/format/internal/disk"
)

// paxXattr begins the PAX records that hold extended attributes.
const paxXattr = "SCHILY.xattr."

// addTar puts one tar entry into the tree, as Docker unpacks it into a layer:
// a later entry replaces an earlier one, except a directory over a directory,
// which takes over the attributes. It returns the node of a regular file whose
// content follows, else nil.
func (t *tree) addTar(h *tar.Header) (*node, error) {
	if h.Typeflag == tar.TypeXGlobalHeader || h.Name == "" {
		return nil, nil
	}
	name, err := tarPath(h.Name)
	if err != nil {
		return nil, err
	}
	n, err := tarNode(h)
	if err != nil {
		return nil, err
	}
	if name == "" {
		if !n.isDir() {
			return nil, errors.New("the root must be a directory")
		}
		t.root.update(n)
		return nil, nil
	}
	dirName, base := path.Split(name)
	if len(base) > disk.MaxName {
		return nil, fmt.Errorf("name of %d bytes, more than %d", len(base), disk.MaxName)
	}
	removed, isWhiteout := whiteout(base)
	if isWhiteout && strings.Trim(removed, ".") == "" && len(base) <= len(whiteoutPrefix)+2 {
		return nil, fmt.Errorf("whiteout of %q", removed)
	}
	dir, err := t.dir(dirName, true)
	if err != nil {
		return nil, err
	}
	if h.Typeflag == tar.TypeLink && !isWhiteout {
		return nil, t.addLink(dir, base, n, h.Linkname)
	}
	if old := dir.children[base]; old != nil && old.isDir() && n.isDir() {
		old.update(n)
		return nil, nil
	}
	dir.children[base] = n
	if n.isRegular() {
		return n, nil
	}
	return nil, nil
}

// addLink adds one more name for the file at target. The entry's attributes
// become those of the file. A target that this layer does not have is one of
// a lower layer: Merge finds it.
func (t *tree) addLink(dir *node, base string, n *node, target string) error {
	name, err := tarPath(target)
	if err != nil {
		return fmt.Errorf("target of hard link: %w", err)
	}
	dirName, targetBase := path.Split(name)
	if targetBase == "" {
		return errors.New("hard link to a directory")
	}
	targetDir, err := t.dir(dirName, false)
	if err != nil {
		return fmt.Errorf("target of hard link: %w", err)
	}
	if targetDir == nil || targetDir.children[targetBase] == nil {
		dir.children[base] = t.standIn(name, n)
		return nil
	}
	file := targetDir.children[targetBase]
	if file.isDir() {
		return errors.New("hard link to a directory")
	}
	file.update(n)
	dir.children[base] = file
	return nil
}

// standIn returns the node that stands for the file of a lower layer. All hard
// links to it share one.
func (t *tree) standIn(path string, n *node) *node {
	if old := t.lowers[path]; old != nil {
		old.update(n)
		return old
	}
	if t.lowers == nil {
		t.lowers = map[string]*node{}
	}
	n.setXattr(markLower, []byte(path))
	t.lowers[path] = n
	return n
}

// update takes over the attributes of a later entry for the same inode.
// Extended attributes that it does not name stay.
func (n *node) update(from *node) {
	n.mode = n.mode&ModeType | from.mode&0o7777
	if n.isSymlink() {
		n.mode = ModeSymlink | 0o777
	}
	n.uid, n.gid = from.uid, from.gid
	n.mtime, n.nsec = from.mtime, from.nsec
	n.implicit = from.implicit
	for _, x := range from.xattrs {
		if n.takesXattr(x.Name) {
			n.setXattr(x.Name, x.Value)
		}
	}
}

// tarPath cleans the name of an entry. As with Docker, names begin at the root
// however they are written, and ".." does not leave it. The root itself is "".
func tarPath(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", errors.New("name contains NUL")
	}
	if len(name) > maxPath {
		return "", fmt.Errorf("path of %d bytes, more than %d", len(name), maxPath)
	}
	return path.Clean("/" + name)[1:], nil
}

// tarNode makes a node of the entry's attributes. Hard links come out as
// regular files.
func tarNode(h *tar.Header) (*node, error) {
	n := &node{}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeLink:
		n.mode = ModeRegular
	case tar.TypeDir:
		n = newDir(0)
	case tar.TypeSymlink:
		n.mode = ModeSymlink
		if n.target = h.Linkname; n.target == "" || len(n.target) > maxPath || strings.ContainsRune(n.target, 0) {
			return nil, fmt.Errorf("symbolic link with a target of %d bytes", len(n.target))
		}
	case tar.TypeChar:
		n.mode = ModeChar
	case tar.TypeBlock:
		n.mode = ModeBlock
	case tar.TypeFifo:
		n.mode = ModeFIFO
	default:
		return nil, fmt.Errorf("unknown entry type %q", h.Typeflag)
	}
	if n.isSymlink() {
		n.mode |= 0o777
	} else {
		n.mode |= uint32(h.Mode) & 0o7777
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, fmt.Errorf("device number %d:%d", h.Devmajor, h.Devminor)
		}
		n.rdev = rdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	var ok, ok2 bool
	n.uid, ok = owner(h.Uid)
	n.gid, ok2 = owner(h.Gid)
	if !ok || !ok2 {
		return nil, fmt.Errorf("owner %d:%d", h.Uid, h.Gid)
	}
	n.setMtime(h.ModTime)
	return n, n.setPAX(h.PAXRecords)
}

// owner is the user or group that chown gives a new file. Of negative ids it
// takes the low 32 bits; the id that is all ones changes nothing. Of larger
// ones it would take the low bits, too: they are refused.
func owner(id int) (uint32, bool) {
	if id == -1 || id == math.MaxUint32 {
		return 0, true
	}
	return uint32(id), int64(id) >= math.MinInt32 && int64(id) <= math.MaxUint32
}

// rdev encodes a device number the way that Linux has since 2.6.
func rdev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// setMtime keeps sub-seconds. Times that Docker does not set on files, those
// before 1970 and after 2262, become 0 as there.
func (n *node) setMtime(t time.Time) {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, 1<<63-1)) {
		return
	}
	n.mtime, n.nsec = t.Unix(), uint32(t.Nanosecond())
}

// setPAX keeps the extended attributes that unpacking would have set: those
// that Linux refuses for this name or type are left out, as Docker does.
func (n *node) setPAX(records map[string]string) error {
	for key, value := range records {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || hiddenXattr(name) || !n.takesXattr(name) {
			continue
		}
		n.setXattr(name, []byte(value))
	}
	return checkXattrs(n.xattrs)
}

func (n *node) takesXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, "user."):
		return n.isRegular() || n.isDir()
	case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "security."):
		return true
	case name == "system.posix_acl_access":
		return !n.isSymlink()
	}
	return name == "system.posix_acl_default" && n.isDir()
}
