package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestFigures(t *testing.T) {
	t.Parallel()
	values := make([]float64, 200)
	for i := range values {
		values[len(values)-1-i] = float64(i + 1)
	}
	for q, want := range map[float64]float64{0.001: 1, 0.5: 100, 0.99: 198, 0.994: 199, 1: 200} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	for _, test := range []struct {
		got, want string
	}{
		{ratios([]float64{2, 9, 8}, []float64{2, 3, 2}), "3.00 (1.00-4.00)"},
		{ratios([]float64{2, 9}, []float64{2, 3, 2}), "2.00 (1.00-3.00)"}, // an even number of rounds
		{ratios([]float64{2, 0}, []float64{2, 3}), "-"},
		{ratios(nil, []float64{1}), "-"},
		{number(quantile(nil, 0.5)), "0.00"},
		{number(median(nil)), "0.00"},
		{number(9.876), "9.88"},
		{number(-85.25), "-85.25"},
		{number(98.76), "98.8"},
		{number(12345.6), "12,346"},
		{count(999), "999"},
		{count(1000000), "1,000,000"},
		{(&tally{missed: 5, written: 1000}).lost(), "5 of 1,000"},
	} {
		if test.got != test.want {
			t.Errorf("got %s, want %s", test.got, test.want)
		}
	}
	got := (&cost{cpu: []float64{1, 2}, postgres: []float64{10, 20}}).both()
	if !slices.Equal(got, []float64{11, 22}) {
		t.Errorf("both CPU times are %v", got)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	for markdown, want := range map[bool]string{
		false: "  case  requests/s\n   304      12,345\n",
		true:  "\n| case | requests/s |\n| --: | --: |\n| 304 | 12,345 |\n",
	} {
		var b strings.Builder
		table := (&output{&b, markdown}).table("case", "requests/s")
		table.row("304", number(12345.4))
		if err := table.flush(); err != nil || b.String() != want {
			t.Errorf("Markdown %t: %v\n%s", markdown, err, b.String())
		}
	}
}

func TestAnother(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rounds     int
		took, left time.Duration
		want       bool
	}{
		{0, 0, -time.Second, true}, // the first one always
		{1, time.Minute, time.Minute, true},
		{2, time.Minute, 29 * time.Second, false},
		{2, time.Minute, 30 * time.Second, true},
	} {
		if got := another(test.rounds, test.took, test.left); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}

// No walk asks for a page that another walk has brought into memory.
func TestWalksDiffer(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for round := range 3 {
		for again := range 8 {
			for walker := range walkers {
				seen[walkLimit(walker, round, again)] = true
			}
		}
	}
	if want := 3 * 8 * walkers; len(seen) != want {
		t.Errorf("%d walks have %d limits", want, len(seen))
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	ids := make([]uuid.UUID, 5)
	for i := range ids {
		ids[i] = uuid.New()
	}
	orders := []*sold{
		{fault: goodDays, id: ids[0]},
		{fault: away, id: ids[1], took: longSale + time.Millisecond},
		{fault: away, id: ids[2], err: errors.New("refused")},
		{fault: outage, id: ids[3]},
		{fault: outage, id: ids[4], err: errors.New("refused")},
	}
	source := map[uuid.UUID]row{ids[0]: {of: "a"}, ids[1]: {of: "b"}, ids[3]: {of: "d"}}
	whole := map[uuid.UUID]row{ids[0]: {"a", 1}, ids[1]: {"b", 1}, ids[3]: {"d", 1}}
	r := judge(orders, source, []map[uuid.UUID]row{
		whole,
		{ids[0]: {"a", 2}, ids[1]: {"old", 1}, ids[2]: {"c", 1}}, // doubled, outdated, never sold; one is missing
		whole,
		{ids[3]: {"d", 1}, ids[4]: {"e", 1}}, // a newcomer
	})
	for fault, want := range map[string]string{
		goodDays: "1 doubled", away: "1 failed, 1 waited, 1 lost, 1 phantom", outage: "1 failed, 1 lost", slowly: "-",
	} {
		if got := r.of(fault); got != want {
			t.Errorf("%s: %s, want %s", fault, got, want)
		}
	}
	got := [...]float64{r.sum(failed, waited), r.sum(lost, doubled, phantom), r.missing()}
	if got != [...]float64{3, 4, 2} {
		t.Errorf("the sums are %v", got)
	}
	if got, want := r.late(), "2 of 3 missing"; got != want {
		t.Errorf("the newcomer lacks %s, want %s", got, want)
	}
}
