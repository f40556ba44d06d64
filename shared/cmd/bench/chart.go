package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// A chart has a group of horizontal bars for each case, one for each series. A value of 0 or less is left out.
type chart struct {
	title, unit string
	from        float64 // where a logarithmic scale begins; 0: linear
	series      []string
	groups      []group
	note        string
	counts      bool // the values are whole numbers
}

type group struct {
	name   string
	values []float64
}

const (
	width, margin  = 760, 24
	labels, values = 130, 90 // room beside the bars
	barHeight      = 16
	style          = `svg{color-scheme:light dark}text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-size:16px;font-weight:600}.n{font-size:11px;fill:#59636e}` +
		`.p{fill:#fff}.s0{fill:#1769d2}.s1{fill:#7d8590}.s2{fill:#b45f06}` +
		`@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9198a1}.p{fill:#0d1117}.s0{fill:#58a6ff}.s1{fill:#8b949e}.s2{fill:#e3953a}}`
)

// draw returns an SVG picture, light or dark as its viewer likes it.
func draw(title, machine string, charts []chart) []byte {
	var b bytes.Buffer
	y := margin
	for i := range charts {
		y = charts[i].draw(&b, y)
	}
	height := y + margin
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[2]d" width="%[1]d" height="%[2]d" role="img" aria-labelledby="title">
<title id="title">%[4]s</title>
<style>%[3]s</style>
<rect class="p" width="%[1]d" height="%[2]d"/>
`, width, height, style, html.EscapeString(title))
	text(&b, "n", margin, y+8, "start", machine)
	return append([]byte(head), append(b.Bytes(), "</svg>\n"...)...)
}

// draw begins at y and returns where it ends.
func (c *chart) draw(b *bytes.Buffer, y int) int {
	y += 12
	text(b, "t", margin, y, "start", c.title)
	y += 22
	x := margin
	for i, name := range c.series {
		rect(b, i, x, y-10, 12, 12)
		text(b, "", x+18, y, "start", name)
		x += 18 + 7*len(name) + 24
	}
	y += 16
	longest := 0.0
	for _, g := range c.groups {
		for _, v := range g.values {
			longest = max(longest, c.scale(v))
		}
	}
	for _, g := range c.groups {
		top := y
		for i, v := range g.values {
			if v <= 0 {
				continue
			}
			length := int(max(1, float64(width-2*margin-labels-values)*c.scale(v)/longest))
			rect(b, i, margin+labels, y, length, barHeight-2)
			text(b, "", margin+labels+length+6, y+12, "start", c.value(v)+c.unit)
			y += barHeight
		}
		text(b, "", margin+labels-10, (top+y)/2+4, "end", g.name)
		y += 12
	}
	if c.note != "" {
		text(b, "", margin, y+8, "start", c.note)
		y += 20
	}
	return y + 12
}

func (c *chart) value(v float64) string {
	if c.counts {
		return count(int(v))
	}
	return number(v)
}

func (c *chart) scale(v float64) float64 {
	if c.from > 0 {
		return max(0, math.Log10(v/c.from))
	}
	return v
}

func rect(b *bytes.Buffer, series, x, y, width, height int) {
	fmt.Fprintf(b, `<rect class="s%d" x="%d" y="%d" width="%d" height="%d" rx="2"/>`+"\n", series, x, y, width, height)
}

func text(b *bytes.Buffer, class string, x, y int, anchor, s string) {
	fmt.Fprintf(b, `<text class="%s" x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", class, x, y, anchor,
		html.EscapeString(s))
}
