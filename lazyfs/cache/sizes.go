// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Sizes is what the chunks of each blob take on disk in the cache directory
// dir, in bytes by blob id in hex. It looks without asking whoever uses the
// directory, which may not exist yet.
func Sizes(dir string) (map[string]int64, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "blobs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list cache: %w", err)
	}
	out := map[string]int64{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".data") {
			continue
		}
		id, _, _ := strings.Cut(e.Name(), ".")
		out[id] += diskSize(filepath.Join(dir, "blobs", e.Name()))
	}
	return out, nil
}
