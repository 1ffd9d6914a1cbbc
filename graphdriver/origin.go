// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// repositoryPattern is host[:port]/path as a registry reference has it, without tag and digest.
var repositoryPattern = regexp.MustCompile(`^(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+$`)

func validRepository(name string) bool {
	return len(name) <= 512 && repositoryPattern.MatchString(name)
}

// repositories lists where a layer's data may be fetched from, most likely first: the repositories that Docker noted when
// it pulled or pushed the layer, newest first, then the layer's own hint. Docker writes its note after ApplyDiff, so this
// is asked when the layer is mounted.
//
// The notes are JSON lists in <image dir>/<driver>/distribution/v2metadata-by-diffid/sha256/<hex>, oldest entry first.
func repositories(imageDir, diffID, hint string) []string {
	type note struct {
		names []string
		when  time.Time
	}
	var notes []note
	if imageDir != "" {
		hex := strings.TrimPrefix(diffID, "sha256:")
		drivers, _ := os.ReadDir(imageDir) // none, or not there: the hint is left
		for _, driver := range drivers {
			path := filepath.Join(imageDir, driver.Name(), "distribution", "v2metadata-by-diffid", "sha256", hex)
			names, when := readNote(path)
			notes = append(notes, note{names, when})
		}
	}
	slices.SortStableFunc(notes, func(a, b note) int { return cmp.Compare(b.when.UnixNano(), a.when.UnixNano()) })
	var all []string
	for _, n := range notes {
		all = append(all, n.names...)
	}
	all = append(all, hint)
	var out []string
	for _, name := range all {
		if validRepository(name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// readNote reads one of Docker's notes, newest entry first. A note that can't be read is as good as none.
func readNote(path string) ([]string, time.Time) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, time.Time{}
	}
	data, err := readFileLimit(path, recordLimit)
	if err != nil {
		return nil, time.Time{}
	}
	var entries []struct{ SourceRepository string }
	if json.Unmarshal(data, &entries) != nil {
		return nil, time.Time{}
	}
	var names []string
	for _, e := range slices.Backward(entries) {
		names = append(names, e.SourceRepository)
	}
	return names, fi.ModTime()
}
