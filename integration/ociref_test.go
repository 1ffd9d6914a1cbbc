// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"lighter/integration/link"
)

// An ordinary image is made lazy without any of its data being converted or
// stored again: the plugin reads it out of the very layers that Docker pushed.
func TestPluginOCIRef(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
	_, packed := imageSize(t, e.Registry.Ref(Python))
	up, err := link.New(e.Registry.Host, link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { up.Close() })
	e.Lighter(t, "convert", "--oci-ref", up.Addr+"/"+Python, up.Addr+"/"+Python+":ref")
	if n := up.Bytes(); n > packed+packed/10 {
		t.Errorf("the conversion read %s of an image of %s", Megabytes(n), Megabytes(packed))
	}
	e.Lighter(t, "check", e.Registry.Ref(Python+":ref"), "--against", e.Registry.Ref(Python))
	index := pushed(t, e.Registry.Ref(Python+":ref-data")) // which lists all that is new, but for a config
	if index*100 > packed*4 {
		t.Errorf("the index has %s, more than 4 %% of %s", Megabytes(index), Megabytes(packed))
	}

	k, err := link.New(e.Registry.Host, link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	d := e.StartLighter(t, DaemonOptions{})
	f := d.Measure(t, k, k.Addr+"/"+Python+":ref", numpy...)
	t.Logf("index %s (%.2f %% of %s); pull moved %s, run %s", Megabytes(index), 100*float64(index)/float64(packed), Megabytes(packed),
		Megabytes(f.PullBytes), Megabytes(f.RunBytes))
	if f.PullBytes*25 > packed || f.PullBytes+f.RunBytes > packed/2 {
		t.Errorf("pull moved %s and run %s of an image of %s", Megabytes(f.PullBytes), Megabytes(f.RunBytes), Megabytes(packed))
	}
	sum := []string{"sh", "-c", "cd / && find bin/ etc usr var -xdev -type f ! -name 'resolv.conf' ! -name host* -print0 | sort -z | xargs -0 sha256sum | sha256sum"}
	lazy := d.Docker(t, append([]string{"run", "--rm", "--network=none", k.Addr + "/" + Python + ":ref"}, sum...)...)
	d.Docker(t, "pull", "-q", e.Registry.Ref(Python))
	if ordinary := d.Docker(t, append([]string{"run", "--rm", "--network=none", e.Registry.Ref(Python)}, sum...)...); lazy != ordinary {
		t.Errorf("files read %q, in the ordinary image %q", strings.TrimSpace(lazy), strings.TrimSpace(ordinary))
	}
}

// pushed is the size of a manifest's layers and config.
func pushed(t *testing.T, ref string) (n int64) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	n = m.Config.Size
	for _, l := range m.Layers {
		n += l.Size
	}
	return n
}
