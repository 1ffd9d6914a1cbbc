// SPDX-License-Identifier: Apache-2.0

package graphdriver

import "strconv"

// Status returns lines for `docker info`.
func (d *Driver) Status() [][2]string {
	var out [][2]string
	s, err := d.open()
	if err != nil {
		out = append(out, [2]string{"State", err.Error()})
	} else {
		out = append(out, s.overlay.Status()...)
	}
	var mounted, bad int
	lazy := d.lazyLayers()
	for _, l := range lazy {
		if l.isMounted() {
			mounted++
		}
	}
	d.mu.Lock()
	for _, l := range d.layers {
		if l.bad != nil {
			bad++
		}
	}
	d.mu.Unlock()
	out = append(out, [2]string{"Lazy layers", strconv.Itoa(len(lazy))}, [2]string{"Lazy layers mounted", strconv.Itoa(mounted)})
	if bad > 0 {
		out = append(out, [2]string{"Damaged layers", strconv.Itoa(bad)})
	}
	if d.o.ExtraStatus != nil {
		out = append(out, d.o.ExtraStatus()...)
	}
	return out
}
