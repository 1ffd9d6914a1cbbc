// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"encoding/json"
	"fmt"
	"testing"

	cachetypes "github.com/moby/buildkit/cache/remotecache/v1/types"
)

func TestReindex(t *testing.T) {
	in, err := json.Marshal([]cachetypes.CacheRecord{
		{Results: []cachetypes.CacheResult{{LayerIndex: 0}, {LayerIndex: 2}}},
		{ChainedResults: []cachetypes.ChainedResult{{LayerIndexes: []int{2, 0}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := reindex(in, []int{3, 1, 1})
	if err != nil {
		t.Fatal(err)
	}
	var got []cachetypes.CacheRecord
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if r := got[0].Results; r[0].LayerIndex != 2 || r[1].LayerIndex != 4 {
		t.Errorf("results %v", r)
	}
	if c := fmt.Sprint(got[1].ChainedResults[0].LayerIndexes); c != "[4 0 1 2]" {
		t.Errorf("chain %s", c)
	}
	for _, counts := range [][]int{nil, {1, 1}} {
		if _, err := reindex(in, counts); err == nil {
			t.Errorf("layer 2 of %d is taken", len(counts))
		}
	}
	if _, err := reindex([]byte("{"), nil); err == nil {
		t.Error("what is no JSON is taken")
	}
}
