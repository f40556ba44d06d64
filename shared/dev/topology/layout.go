package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// All lengths are in units of the drawing: pixels at scale 1.
const (
	boxWidth   = 236
	headHeight = 66 // of a box: name and status
	rowHeight  = 46 // of a copy or a feed
	rowGap     = 8
	columnGap  = 72
	boxGap     = 24
	laneHeight = 8 // of an arrow that passes a column
	margin     = 10
	firstLine  = 26 // from a box to the first line of a narrow drawing
	lineGap    = 10
	corner     = 6
	sweeps     = 8
)

// A drawing arranges the services as boxes in columns. Each stands to the right of the services whose feeds it reads,
// as far left as possible.
type drawing struct {
	Width, Height int
	Boxes         []*box
	Arrows        []arrow
}

// A box is a service. Below its head it has a row per copy, then a row per feed.
type box struct {
	*State
	cell
}

// RowY returns where the row of a copy begins in the box.
func (b *box) RowY(i int) int { return headHeight + i*(rowHeight+rowGap) }

// FeedY returns where the row of a feed begins.
func (b *box) FeedY(i int) int { return b.RowY(len(b.Reads) + i) }

type arrow struct{ State, Path, Head string }

// A cell takes space in a column: a box, or a lane for the arrows of a feed that pass it.
type cell struct {
	X, Y, Height int
	left, right  []*cell // cells from which arrows come, and to which arrows lead
}

func (c *cell) middle() int { return c.Y + c.Height/2 }

type way struct {
	from, to *box
	feed     int
	copy     string // the feed's name
	lanes    []*cell
}

func (w *way) before() *cell {
	if len(w.lanes) > 0 {
		return w.lanes[len(w.lanes)-1]
	}
	return &w.from.cell
}

// boxes returns a box per service, where each is in the list, and its column.
func boxes(states []State) (all []*box, index map[string]int, level []int) {
	index = map[string]int{}
	for i := range states {
		s := &states[i]
		index[s.Name] = i
		all = append(all, &box{s, cell{Height: headHeight + (len(s.Reads)+len(s.Publishes))*(rowHeight+rowGap)}})
	}
	return all, index, levels(states, index)
}

func draw(states []State) *drawing {
	d := new(drawing)
	var index map[string]int
	var level []int
	d.Boxes, index, level = boxes(states)
	columns := make([][]*cell, slices.Max(append(level, 0))+1)
	for i, b := range d.Boxes {
		columns[level[i]] = append(columns[level[i]], &b.cell)
	}
	ways := d.ways(columns, level, index)
	d.place(columns)
	for _, b := range d.Boxes { // a copy whose arrow comes from above is above the others
		from := map[string]int{}
		for _, w := range ways {
			if w.to == b {
				from[w.copy] = w.before().middle()
			}
		}
		slices.SortStableFunc(b.Reads, func(x, y Copy) int { return cmp.Compare(from[x.Feed], from[y.Feed]) })
	}
	for _, w := range ways {
		d.Arrows = append(d.Arrows, w.arrow())
	}
	d.troubleOnTop()
	return d
}

func (d *drawing) troubleOnTop() {
	usual := []string{"fresh", Unknown}
	slices.SortStableFunc(d.Arrows, func(a, b arrow) int { return -cmp.Compare(slices.Index(usual, a.State), slices.Index(usual, b.State)) })
}

// levels returns the column of each service. Services that read each other's feeds get some order.
func levels(states []State, index map[string]int) []int {
	level, visited := make([]int, len(states)), make([]int, len(states))
	const underWay, done = 1, 2
	var visit func(int)
	visit = func(i int) {
		visited[i] = underWay
		for _, c := range states[i].Reads {
			k, ok := index[c.Source]
			if !ok || visited[k] == underWay {
				continue
			}
			if visited[k] != done {
				visit(k)
			}
			level[i] = max(level[i], level[k]+1)
		}
		visited[i] = done
	}
	for i := range states {
		if visited[i] != done {
			visit(i)
		}
	}
	return level
}

// ways returns the way of each arrow. The arrows of one feed share a lane in each column that they pass.
func (d *drawing) ways(columns [][]*cell, level []int, index map[string]int) (ways []*way) {
	type place struct {
		feed   string
		from   int
		column int
	}
	lanes := map[place]*cell{}
	for i, to := range d.Boxes {
		for _, c := range to.Reads {
			k, ok := index[c.Source]
			if !ok {
				continue
			}
			w := &way{from: d.Boxes[k], to: to, feed: d.Boxes[k].feed(c.Feed), copy: c.Feed}
			for column := level[k] + 1; column < level[i]; column++ {
				at := place{c.Feed, k, column}
				if lanes[at] == nil {
					lanes[at] = &cell{Height: laneHeight}
					columns[column] = append(columns[column], lanes[at])
					join(w.before(), lanes[at])
				}
				w.lanes = append(w.lanes, lanes[at])
			}
			if level[k] < level[i] {
				join(w.before(), &to.cell)
			}
			ways = append(ways, w)
		}
	}
	return ways
}

func join(left, right *cell) {
	left.right, right.left = append(left.right, right), append(right.left, left)
}

// place positions the cells: columns from left to right, and in a column each cell near its neighbours.
func (d *drawing) place(columns [][]*cell) {
	height := 0
	for i, column := range columns {
		for _, c := range column {
			c.X = margin + i*(boxWidth+columnGap)
		}
		height = max(height, stack(column, 0))
	}
	for _, column := range columns {
		stack(column, height)
	}
	for sweep := range sweeps {
		for i := range columns {
			column, joined := columns[i], func(c *cell) []*cell { return c.left }
			if sweep%2 == 1 {
				column, joined = columns[len(columns)-1-i], func(c *cell) []*cell { return c.right }
			}
			slices.SortStableFunc(column, func(a, b *cell) int { return cmp.Compare(mean(a, joined(a)), mean(b, joined(b))) })
			stack(column, height)
		}
	}
	d.Width = 2*margin + len(columns)*(boxWidth+columnGap) - columnGap
	d.Height = height + 2*margin
}

func mean(c *cell, joined []*cell) int {
	if len(joined) == 0 {
		return c.middle()
	}
	sum := 0
	for _, j := range joined {
		sum += j.middle()
	}
	return sum / len(joined)
}

// stack places a column's cells below one another, centred in the height, and returns their own height.
func stack(column []*cell, height int) int {
	own := -boxGap
	for _, c := range column {
		own += c.Height + boxGap
	}
	y := margin + max(height-own, 0)/2
	for _, c := range column {
		c.Y = y
		y += c.Height + boxGap
	}
	return own
}

func (w *way) arrow() arrow {
	i := slices.IndexFunc(w.to.Reads, func(c Copy) bool { return c.Feed == w.copy })
	x, y := w.from.X+boxWidth, w.from.Y+w.from.FeedY(w.feed)+rowHeight/2
	var path strings.Builder
	fmt.Fprintf(&path, "M%d %d", x, y)
	curve := func(toX, toY int) {
		bend := max(columnGap/2, (x-toX)/3) // an arrow to the left bends outward
		fmt.Fprintf(&path, "C%d %d %d %d %d %d", x+bend, y, toX-bend, toY, toX, toY)
		x, y = toX, toY
	}
	for _, lane := range w.lanes {
		curve(lane.X, lane.middle())
		x += boxWidth
		fmt.Fprintf(&path, "H%d", x)
	}
	endX, endY := w.to.X, w.to.Y+w.to.RowY(i)+rowHeight/2
	curve(endX-8, endY)
	return arrow{
		State: w.to.Reads[i].Class(), Path: path.String(),
		Head: fmt.Sprintf("M%d %dl-11 -6v12z", endX, endY),
	}
}

// drawNarrow arranges the services one below the other, sources first. On their right each feed has a line of its own,
// from which arrows lead to its copies.
func drawNarrow(states []State) *drawing {
	d := new(drawing)
	all, index, level := boxes(states)
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(level[a], level[b]) })
	y, lines, line := margin, 0, map[[2]string]int{}
	for _, i := range order {
		b := all[i]
		b.X, b.Y = margin, y
		y += b.Height + boxGap
		for _, f := range b.Publishes {
			line[[2]string{b.Name, f.Name}] = lines
			lines++
		}
		d.Boxes = append(d.Boxes, b)
	}
	right := margin + boxWidth
	for _, to := range d.Boxes {
		for i, c := range to.Reads {
			k, ok := index[c.Source]
			if !ok {
				continue
			}
			from := all[k]
			startY, endY := from.Y+from.FeedY(from.feed(c.Feed))+rowHeight/2, to.Y+to.RowY(i)+rowHeight/2
			x := right + firstLine + lineGap*line[[2]string{c.Source, c.Feed}]
			turn := corner
			if endY < startY {
				turn = -corner
			}
			d.Arrows = append(d.Arrows, arrow{
				State: c.Class(), Head: fmt.Sprintf("M%d %dl11 -6v12z", right, endY),
				Path: fmt.Sprintf("M%d %dH%dQ%d %d %d %dV%dQ%d %d %d %dH%d", right, startY, x-corner, x, startY, x, startY+turn, endY-turn, x, endY, x-corner, endY, right+8),
			})
		}
	}
	d.troubleOnTop()
	d.Width, d.Height = right+firstLine+lineGap*max(lines-1, 0)+margin, y-boxGap+margin
	return d
}
