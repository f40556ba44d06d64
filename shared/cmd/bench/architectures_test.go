package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/dev/rabbitmq"
)

// What the faults come to in each way: what is lost, what is sold to nobody's knowledge, and what never was sold. What
// takes longer is a matter of the machine.
func TestArchitectures(t *testing.T) {
	t.Parallel()
	if _, err := rabbitmq.Find(); err != nil {
		t.Skip(err)
	}
	out, bars := quick(t, "architectures")
	const few, all, caughtOfAll = minFew, minFew * 3, caught * 3
	for fault, want := range map[string][]facts{ // in the order of the columns
		before:   {{"lost": all}, {"lost": all}, {"lost": all}, {"lost": all}, {"lost": all}, {}, {}},
		goodDays: {{}, {}, {}, {}, {}, {}, {}},
		away:     {{"failed": few}, {}, {}, {}, {}, {}, {}},
		outage:   {{}, {"waited": few, "lost": all}, {"lost": all}, {}, {}, {}, {}},
		halfSold: {{"failed": caught, "phantom": caughtOfAll}, {"failed": caught, "lost": caughtOfAll},
			{"failed": caught, "lost": caughtOfAll}, {"failed": caught}, {"failed": caught}, {"failed": caught}, {"failed": caught}},
		halfDone: {{"failed": some, "phantom": some}, {}, {}, {}, {}, {}, {}},
		slowly:   {{late: some}, {}, {}, {}, {}, {}, {}},
	} {
		got := rowOf(t, out, fault)
		if len(got) != len(want) {
			t.Fatalf("%s: %q", fault, got)
		}
		for i, cell := range got {
			if err := want[i].check(cell); err != nil {
				t.Errorf("%s: %s: %v", fault, architectures()[i].title, err)
			}
		}
	}
	// Of everything, a newcomer has what came after it; in the stream the first one also what the history queue had.
	lacks := regexp.MustCompile(`^([\d,]+) of ([\d,]+), ([\d,]+) of ([\d,]+) missing$`)
	for i, cell := range rowOf(t, out, newcomers) {
		n := make([]int, 5)
		for j, text := range lacks.FindStringSubmatch(cell) {
			n[j], _ = strconv.Atoi(text)
		}
		of := n[2]
		var want [2]int // after each of them something is sold
		switch architectures()[i].name {
		case "calls", "queues":
			want = [2]int{of - 2, of - 1}
		case "stream":
			want = [2]int{few + few + caught, of - 2}
		case "outbox", "capture":
			want = [2]int{few, of - 2}
		}
		if got := [2]int{n[1], n[3]}; got != want || of < 50 || n[4] != of {
			t.Errorf("%s: the newcomers lack %s, want %v", architectures()[i].title, cell, want)
		}
	}
	for _, row := range []string{`synchronous calls \| .* 3,000 \| .* 5 addresses \| 3 times`,
		`queue per consumer \| .* 3,000 \| .* broker, 5 queues \| 3 times`,
		`event stream \| .* 1,000 \| .* broker, exchange, history queue \| once`,
		`outbox and stream \| .* 1,000 \| .* broker, exchange, history queue \| once`, `change data capture \| .* nobody \| never`,
		`feed \| .* nobody \| never`,
		`feed with relay \| .* nobody \| never`} {
		if !regexp.MustCompile(`(?m)^\| ` + row + ` \|$`).MatchString(out) {
			t.Errorf("nothing matches %s", row)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	if bars < 2*7+3+3+3+2+2+1+1 {
		t.Errorf("the picture has %d bars", bars)
	}
}

const (
	some = -1
	late = "late" // failed or waited; what else depends on which
)

// facts are the counts of a cell, by word.
type facts map[string]int

func (want facts) check(cell string) error {
	got := facts{}
	for part := range strings.SplitSeq(cell, ", ") {
		n, what, _ := strings.Cut(part, " ")
		got[what], _ = strconv.Atoi(n)
	}
	if want[late] == some && got["failed"]+got["waited"] > 0 {
		return nil
	}
	for _, what := range []string{late, "failed", "waited", "lost", "doubled", "phantom"} {
		switch w := want[what]; {
		case w == some && got[what] > 0, w == got[what]:
		case what == "waited" && w == 0: // on a machine that has more to do
		default:
			return fmt.Errorf("%q, want %v", cell, want)
		}
	}
	return nil
}

// rowOf returns the cells of the row that begins with a word.
func rowOf(t *testing.T, out, first string) []string {
	t.Helper()
	for line := range strings.Lines(out) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if strings.TrimSpace(cells[0]) == first && len(cells) > 1 {
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			return cells[1:]
		}
	}
	t.Fatalf("there is no row %q in\n%s", first, out)
	return nil
}
