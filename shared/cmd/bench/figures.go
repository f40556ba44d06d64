package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/edison-cars/data-feeds/shared/web"
)

type output struct {
	io.Writer
	markdown bool
}

// A table aligns its columns to the right, or is one of Markdown.
type table struct {
	w        *tabwriter.Writer
	markdown bool
}

func (o *output) table(columns ...string) *table {
	t := &table{tabwriter.NewWriter(o, 0, 0, 2, ' ', tabwriter.AlignRight), o.markdown}
	if o.markdown {
		fmt.Fprintln(o)
	}
	t.row(columns...)
	if o.markdown {
		t.row(slices.Repeat([]string{"--:"}, len(columns))...)
	}
	return t
}

func (t *table) row(cells ...string) {
	if t.markdown {
		fmt.Fprintln(t.w, "| "+strings.Join(cells, " | ")+" |")
		return
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t")+"\t")
}

func (t *table) flush() error { return t.w.Flush() }

// quantile returns the value that the share q of values, more than 0 and at most 1, does not exceed; 0 for no values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(int(math.Ceil(q*float64(len(s)))), 1)-1]
}

// median returns 0 for no values.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	switch n := len(s); {
	case n == 0:
		return 0
	case n%2 == 0:
		return (s[n/2-1] + s[n/2]) / 2
	default:
		return s[n/2]
	}
}

// ratios compares round by round: the median, and the least and the most.
func ratios(of, to []float64) string {
	var r []float64
	for i := range min(len(of), len(to)) {
		if of[i] <= 0 || to[i] <= 0 { // too few requests to tell
			return "-"
		}
		r = append(r, of[i]/to[i])
	}
	if len(r) == 0 {
		return "-"
	}
	return spread(r)
}

func spread(values []float64) string {
	return fmt.Sprintf("%s (%s-%s)", number(median(values)), number(slices.Min(values)), number(slices.Max(values)))
}

// number is a value in three digits, or as many as it has before the point.
func number(v float64) string {
	switch {
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return count(int(v + 0.5))
	}
}

func count(n int) string { return web.Num(int64(n)) }
