package topology

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// whole is the company as it is meant to be: service, what it publishes, what it reads from whom.
var whole = [][3]string{
	{"sales", "orders"}, {"customers", "customers"},
	{"warehouse", "", "orders@sales"}, {"assembly", "builds", "orders@sales"},
	{"dashboard", "", "orders@sales builds@assembly shipments@shipping"}, {"billing", "", "orders@sales customers@customers shipments@shipping"},
	{"shipping", "shipments", "orders@sales builds@assembly customers@customers"}, {"mailer", "", "orders@sales customers@customers"},
}

func statesOf(services [][3]string) (states []State) {
	now := time.Now()
	for i, s := range services {
		state := State{Name: s[0], URL: fmt.Sprintf("http://localhost:%d", 8080+i), Status: Up, askedAt: fmt.Sprintf("http://localhost:%d", 8080+i)}
		for feed := range strings.FieldsSeq(s[1]) {
			state.Publishes = append(state.Publishes, Feed{Name: feed, URL: state.URL + "/feeds/" + feed, Entries: 12_345})
		}
		for read := range strings.FieldsSeq(s[2]) {
			feed, source, _ := strings.Cut(read, "@")
			state.Reads = append(state.Reads, Copy{Feed: feed, Source: source, State: "fresh", AsOf: &now})
		}
		states = append(states, state)
	}
	return states
}

var number = regexp.MustCompile(`\d+`)

// Whatever the company is like, no box lies upon another one, each arrow leads from the right side of a box to the left
// side of one that stands right of it, and none crosses a box.
func TestDrawing(t *testing.T) {
	t.Parallel()
	check := func(t rapid.TB, states []State) *drawing {
		d := draw(states)
		for i, a := range d.Boxes {
			if a.X < 0 || a.Y < 0 || a.X+boxWidth > d.Width || a.Y+a.Height > d.Height {
				t.Fatalf("%s lies outside %d x %d: %+v", a.Name, d.Width, d.Height, a.cell)
			}
			for _, b := range d.Boxes[:i] {
				if a.X == b.X && a.Y < b.Y+b.Height && b.Y < a.Y+a.Height {
					t.Fatalf("%s lies upon %s", a.Name, b.Name)
				}
			}
		}
		copies := 0
		for _, s := range states {
			copies += len(s.Reads)
		}
		if len(d.Arrows) != copies {
			t.Fatalf("%d arrows for %d copies", len(d.Arrows), copies)
		}
		for _, a := range d.Arrows {
			steps := regexp.MustCompile(`[MCH][^MCH]*`).FindAllString(a.Path, -1)
			x, y := 0, 0
			for _, step := range steps {
				var n []int
				for _, digits := range number.FindAllString(step, -1) {
					v, _ := strconv.Atoi(digits)
					n = append(n, v)
				}
				before := x
				if x = n[len(n)-1]; step[0] != 'H' {
					x, y = n[len(n)-2], n[len(n)-1]
				} else { // past the boxes of a column
					for _, b := range d.Boxes {
						if b.X == before && b.Y <= y && y <= b.Y+b.Height {
							t.Fatalf("an arrow crosses %s: %s", b.Name, a.Path)
						}
					}
				}
				if x <= before && step[0] != 'M' {
					t.Fatalf("an arrow leads to the left: %s", a.Path)
				}
			}
		}
		return d
	}
	d := check(t, statesOf(whole))
	at := map[string]int{}
	for _, b := range d.Boxes {
		at[b.Name] = b.X
	}
	if !(at["sales"] == at["customers"] && at["sales"] < at["warehouse"] && at["warehouse"] == at["assembly"] && at["assembly"] < at["shipping"] && at["shipping"] < at["dashboard"]) {
		t.Errorf("the columns are %v", at)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "services")
		var services [][3]string
		for i := range n {
			var reads []string
			for j := range i {
				if rapid.IntRange(0, 3).Draw(t, "reads") == 0 {
					reads = append(reads, fmt.Sprintf("f%d@s%d", j, j))
				}
			}
			services = append(services, [3]string{fmt.Sprint("s", i), fmt.Sprint("f", i), strings.Join(reads, " ")})
		}
		check(t, statesOf(services))
	})
}

// Services that read each other's feeds are drawn, too.
func TestCircle(t *testing.T) {
	t.Parallel()
	d := draw(statesOf([][3]string{{"a", "x", "y@b x@a"}, {"b", "y", "x@a"}}))
	if len(d.Arrows) != 3 || len(d.Boxes) != 2 || d.Boxes[0].X == d.Boxes[1].X {
		t.Errorf("%+v", d)
	}
}

// In a narrow window the services stand below one another, sources first, and the line of a feed crosses no box.
func TestNarrow(t *testing.T) {
	t.Parallel()
	states := statesOf(whole)
	d := drawNarrow(states)
	if len(d.Boxes) != len(whole) || len(d.Arrows) != len(draw(states).Arrows) || d.Width > 340 {
		t.Fatalf("%d boxes, %d arrows, %d wide", len(d.Boxes), len(d.Arrows), d.Width)
	}
	place := map[string]int{}
	for i, b := range d.Boxes {
		if place[b.Name] = i; i > 0 && b.Y < d.Boxes[i-1].Y+d.Boxes[i-1].Height {
			t.Errorf("%s is over %s", b.Name, d.Boxes[i-1].Name)
		}
		for _, c := range b.Reads {
			if at, known := place[c.Source]; !known || at >= i {
				t.Errorf("%s stands before %s, which it reads", b.Name, c.Source)
			}
		}
	}
	for _, a := range d.Arrows {
		for _, x := range regexp.MustCompile(`[HQ](\d+)`).FindAllStringSubmatch(a.Path, -1) {
			if n, _ := strconv.Atoi(x[1]); n <= margin+boxWidth || n > d.Width {
				t.Errorf("an arrow leaves its place: %s", a.Path)
			}
		}
	}
	if d := drawNarrow(statesOf([][3]string{{"a", "x", "y@b x@a"}, {"b", "y", "x@a"}})); len(d.Arrows) != 3 { // read each other's feeds
		t.Errorf("%+v", d)
	}
	if d := drawNarrow(nil); len(d.Boxes) != 0 {
		t.Errorf("%+v", d)
	}
}
