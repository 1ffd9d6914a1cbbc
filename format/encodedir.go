// SPDX-License-Identifier: Apache-2.0

package format

import "lighter/format/internal/disk"

// dirBlocks cuts sorted entries into the groups that share a block, and
// yields each with the bytes it uses.
func dirBlocks(entries []treeEntry, yield func(group []treeEntry, used int64)) {
	first, used := 0, int64(0)
	for i, e := range entries {
		need := int64(disk.DirentSize + len(e.name))
		if used+need > blockSize {
			yield(entries[first:i], used)
			first, used = i, 0
		}
		used += need
	}
	yield(entries[first:], used)
}

// dirBlocksSize returns the size of a directory: whole blocks, and the used
// part of the last one.
func dirBlocksSize(entries []treeEntry) (size int64) {
	last := int64(0)
	dirBlocks(entries, func(_ []treeEntry, used int64) {
		size += blockSize
		last = used
	})
	return size - blockSize + last
}

// encodeDir returns the data of a directory whose children have their places.
func encodeDir(entries []treeEntry, size int64) []byte {
	data := make([]byte, 0, size)
	dirBlocks(entries, func(group []treeEntry, _ int64) {
		data = data[:up(int64(len(data)), blockSize)]
		nameOff := len(group) * disk.DirentSize
		for _, e := range group {
			d := disk.Dirent{Nid: e.node.nid(), NameOff: uint16(nameOff), FileType: e.node.fileType()}
			data = d.Append(data)
			nameOff += len(e.name)
		}
		for _, e := range group {
			data = append(data, e.name...)
		}
	})
	return data
}
